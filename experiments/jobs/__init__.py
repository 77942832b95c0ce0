"""Runs one training as a separate process, and the arguments that the trainings of an experiment share."""
