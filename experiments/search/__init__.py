"""`python -m experiments.search`: architecture search in EfficientNet's own search space."""
