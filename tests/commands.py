"""Runs commands for tests: in this process, with arguments as a user types them."""

import pytest
import torch

from experiments import load_run


def run(command, *arguments):
    command.main([str(a) for a in arguments])


def fails(capsys, code, command, *arguments):
    """The one message of a command that leaves with `code`."""
    with pytest.raises(SystemExit) as stop:
        run(command, *arguments)
    assert stop.value.code == code
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return " ".join(message.split())


def loads(folder, images):
    """Outputs of a finished run's model for `images`, after a check that its weights equal those of the checkpoint."""
    loaded = load_run(folder)
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, state[f"model.{name}"], rtol=0, atol=0)
    assert not any(module.training for module in loaded.model.modules())
    with torch.inference_mode():
        return loaded, loaded.model(images)
