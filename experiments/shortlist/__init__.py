"""`python -m experiments.shortlist`: which backbones to train first, from their features and published facts."""
