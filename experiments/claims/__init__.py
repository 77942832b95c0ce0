"""`python -m experiments.claims`: what articles say of EfficientNet, beside what is measured here."""
