"""A reader that closes the pipe, such as `head`, ends no command with a traceback."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("arguments", [["backbones", "resnet18"], ["data.demo"]], ids=lambda a: a[0])
def test_a_closed_pipe_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([sys.executable, "-m", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (process.returncode, process.stderr) == (0, "")
