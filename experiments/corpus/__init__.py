"""`python -m experiments.corpus`: a growing table of finished trainings, and the page made from it."""
