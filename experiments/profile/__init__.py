"""`python -m experiments.profile`: what backbones cost on this machine."""
