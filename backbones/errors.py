"""The errors a user can cause. Each is one message that names cause and fix, and carries its process exit code.

Commands print the message without a traceback and leave with `exit_code`; as a library they are ordinary exceptions.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong usage: an unknown flag, name, or combination of settings."""

    exit_code = 2


class BadInput(UserError):
    """Absent, unreadable, or malformed data, weights, or checkpoint."""

    exit_code = 3


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Make the error for a name that is not among `known`, with near matches: raise it."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    listed = near or (known if len(known) <= 20 else [])
    hint = (" Did you mean " if near else " Known: ") + ", ".join(listed) + ("?" if near else ".") if listed else ""
    return UserError(f"unknown {kind} '{name}'.{hint}")
