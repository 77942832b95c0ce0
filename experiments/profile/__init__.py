"""`python -m experiments.profile`: costs of backbones on this machine."""
