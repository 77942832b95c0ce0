"""Training, evaluation and prediction of any task: command line, trainer, checkpoints, records. Names no task."""

from backbones.shadowing import check_packages

check_packages(__name__, "data")
