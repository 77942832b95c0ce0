"""The public names of `backbones`, and its import without torch."""

import subprocess
import sys

import pytest

import backbones


def test_public_names_are_imported_when_used():
    code = (
        "import sys, backbones\n"
        "from backbones import BadInput, UserError\n"
        "assert set(backbones.__all__) <= set(dir(backbones))\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
        "from backbones import create_backbone\n"
        "assert 'torch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists():
    for name in backbones.__all__:
        assert getattr(backbones, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'backbones' has no attribute 'no_such_name'"):
        _ = backbones.no_such_name


@pytest.mark.parametrize("module", ["backbones", "backbones.doctor"])
def test_help_does_not_import_torch(module):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
