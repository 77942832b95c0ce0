"""`python -m experiments.audit`: finds problems of a data set before training."""
