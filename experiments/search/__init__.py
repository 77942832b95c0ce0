"""`python -m experiments.search`: architecture search in EfficientNet's search space."""
