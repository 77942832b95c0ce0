"""`python -m experiments.audit`: problems of a data set, worst first, before it spoils a training."""
