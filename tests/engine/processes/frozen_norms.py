"""A train command in which batch norm stays in evaluation mode. Otherwise its statistics depend on each process's part.

python -m tests.engine.processes.frozen_norms TASK ARGUMENTS

With the variable MICRO_BATCH, `--accumulate auto` finds that this number of images fits in memory.
"""

import os
import sys
from importlib import import_module

from torch.nn.modules.batchnorm import _BatchNorm

from engine import trainer
from engine.task import Task

train = Task.train


def train_without_norms(self, mode=True):
    train(self, mode)
    for module in self.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return self


if __name__ == "__main__":
    Task.train = train_without_norms
    if size := os.environ.get("MICRO_BATCH"):
        trainer.images_that_fit = lambda *_: int(size)
    import_module(f"{sys.argv[1]}.train").main(sys.argv[2:])
