"""`python -m experiments.compare`: train backbones under one recipe and report score and cost of each."""
