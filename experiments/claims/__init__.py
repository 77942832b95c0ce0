"""`python -m experiments.claims`: claims about EfficientNet, with their sources and measurements."""
