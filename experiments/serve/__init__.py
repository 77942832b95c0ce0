"""`python -m experiments.serve`: predictions of runs in a browser and over HTTP."""
