"""Training, evaluation and prediction of any task: command line, trainer, checkpoints, records. Names no task."""
