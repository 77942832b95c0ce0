"""`python -m experiments.scaling`: how much to scale depth, width and resolution."""
