"""Detects a package of the user that has the name of one of ours and comes first on Python's path.

Our packages have common names, such as `data`. Python imports the first package that it finds, and searches the current
folder first. Without this check, the user would see an error from inside their own code.
"""

import os
import sys
from importlib.util import find_spec

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the folder of all our packages


def check_packages(importer: str, *names: str) -> None:
    """Check that imports of `names` will find the packages beside this one.

    A folder without `__init__.py`, such as `data/` with images, hides nothing: Python prefers a package anywhere on
    its path.

    Args:
        importer: our package that imports them.
        names: names of top-level packages.

    Raises an ImportError that names both locations. While `python -m` starts a command of `importer`, the function
    prints that message and exits with code 2 instead.
    """
    for name in names:
        place = _place(name)
        expected = os.path.join(ROOT, name)
        if place is None or place == expected or os.path.realpath(place) == os.path.realpath(expected):
            continue
        message = (
            f"the package '{name}' was found at {place}, not at {expected}: it hides backbone-swap's own. Rename it, "
            "or run from another folder."
        )
        if _command().partition(".")[0] == importer:
            print(f"error: {message}", file=sys.stderr, flush=True)
            sys.exit(2)
        raise ImportError(message, name=name)


def _place(name: str) -> str | None:
    """The folder or file that `import name` would find or has found; None if there is none."""
    try:
        spec = find_spec(name)
    except ValueError:  # imported already, and without a spec
        return getattr(sys.modules[name], "__file__", None) or "an unknown place"
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return os.path.abspath(next(iter(spec.submodule_search_locations)))
    return os.path.abspath(spec.origin) if spec.has_location and spec.origin else spec.origin


def _command() -> str:
    """The module that `python -m` is locating at this moment, or "" if there is none."""
    if sys.argv[:1] != ["-m"] or len(sys.orig_argv) < len(sys.argv):
        return ""
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m")  # `-m NAME` or `-mNAME`
