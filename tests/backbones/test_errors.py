"""Errors speak of Python settings; a command line prints the same message with its flags."""

import pickle
from dataclasses import dataclass

import pytest

from backbones.errors import BadInput, UserError, unknown_name, with_flags
from engine.cli import command


@pytest.mark.parametrize(
    ("message", "settings", "printed"),
    [
        ("`pretrained=False` or `pretrained=FILE`", ("pretrained",), "--pretrained false or --pretrained FILE"),
        ("check `backbone` and `phi`", ("backbone", "phi"), "check --backbone and --phi"),
        ("pass `ignore_index=3`", ("data.ignore_index",), "pass --data.ignore_index 3"),
        ("pass `neck='bifpn'`, not `neck=None`", ("neck",), "pass --neck bifpn, not --neck null"),
        ('pass `device="cpu"`', ("device",), "pass --device cpu"),
        ("the file `phi` and `phi_old`", (), "the file `phi` and `phi_old`"),
        ("`phi_old` stays", ("phi",), "`phi_old` stays"),
    ],
)
def test_a_command_line_prints_flags(message, settings, printed):
    assert with_flags(UserError(message, settings=settings)) == printed


def test_commands_print_flags_and_exit_with_the_errors_code(capsys):
    @dataclass
    class Config:
        phi: int = 0

    def fail(config):
        raise BadInput(f"`phi={config.phi}` does not fit", settings=("phi",))

    with pytest.raises(SystemExit) as stop:
        command("nothing", Config, fail)(["--phi", "5"])
    assert stop.value.code == 3
    assert capsys.readouterr().err == "error: --phi 5 does not fit\n"


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadInput("check `phi`", settings=("phi",))))
    assert (type(error), str(error), error.settings) == (BadInput, "check `phi`", ("phi",))


def test_unknown_names_are_answered_with_similar_or_all_known_ones():
    assert str(unknown_name("neck", "bifp", ["bifpn", "fpn"])) == "unknown neck 'bifp'. Did you mean bifpn?"
    assert str(unknown_name("neck", "x", ["fpn", "bifpn"])) == "unknown neck 'x'. Known: bifpn, fpn."
    assert str(unknown_name("neck", "x", [])) == "unknown neck 'x'."
    assert str(unknown_name("size", "x", map(str, range(100)))) == "unknown size 'x'."
