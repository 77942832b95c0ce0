"""`python -m experiments.scaling`: which of depth, width and resolution to scale, and how far."""
