"""The version of the installed distribution."""

from importlib import metadata

UNINSTALLED = "0+unknown"  # of a checkout that is not installed: below every release, valid for tools that compare


def package_version() -> str:
    """The version of the installed distribution, or UNINSTALLED: a checkout may lie between two releases."""
    try:
        return metadata.version("backbone-swap")
    except metadata.PackageNotFoundError:
        return UNINSTALLED
