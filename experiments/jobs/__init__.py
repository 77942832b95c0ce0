"""One training as a process of its own, and the arguments that trainings share."""
