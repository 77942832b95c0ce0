"""Read from object stores through fsspec: `s3://BUCKET/PREFIX`, `gs://...`, and whatever else it has a driver for.

Drivers are chosen and installed by the user. They take credentials and addresses from their usual environment, such as
`AWS_ACCESS_KEY_ID`, `AWS_PROFILE` and `AWS_ENDPOINT_URL` for s3fs.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from backbones.errors import BadInput, StoreError

PATIENCE = 60.0  # seconds after which a failed read is not tried again; drivers have retries of their own within it
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before the second attempt, doubled before each further one
_ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")  # a `Path` of an address has one slash after the colon
_NOT_REMOTE = ("hf",)  # see `data.hub`
_NO_CREDENTIALS = ("credential", "unauthorized", "anonymous caller", "invalidaccesskeyid", "signaturedoesnotmatch")

T = TypeVar("T")


def address(root: str | Path) -> str | None:
    """The address of a folder in an object store; None for paths on this machine."""
    found = _ADDRESS.fullmatch(Path(root).as_posix())
    return f"{found[1]}://{found[2]}" if found and found[1] not in _NOT_REMOTE else None


class Store:
    """The files below a folder in an object store. Can be sent to other processes, and used after a fork.

    Each read is tried again after errors of the network. Raises BadInput for missing files and for missing permissions,
    and StoreError if the store does not answer.

    Args:
        url: the folder, such as "s3://BUCKET/PREFIX".
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._process, self._system = -1, None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.url,)

    def sizes(self) -> dict[str, int]:
        """The files in the folder and their sizes in bytes."""
        found = self._tried(self.url, lambda fs: fs.ls(self.url, detail=True, refresh=True))
        return {info["name"].rpartition("/")[2]: int(info["size"] or 0) for info in found if info["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A whole file."""
        url = f"{self.url}/{name}"
        return self._tried(url, lambda fs: fs.cat_file(url))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Part of a file, from byte `start` up to, without, `stop`."""
        url = f"{self.url}/{name}"

        def read(fs: Any) -> bytes:
            content = fs.cat_file(url, start=start, end=stop)
            if len(content) != stop - start:
                raise OSError(f"{len(content)} of {stop - start} bytes arrived")
            return content

        return self._tried(url, read)

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
        """Several parts of files, requested at the same time; None for each that failed at the first attempt."""
        urls, starts, stops = zip(*((f"{self.url}/{name}", start, stop) for name, start, stop in ranges), strict=True)
        fs = self._file_system()
        # `max_gap=None`: neighbouring ranges are not merged, since images are rarely neighbours.
        found = fs.cat_ranges(list(urls), list(starts), list(stops), max_gap=None, on_error="return")
        return [
            bytes(content) if isinstance(content, bytes | bytearray) and len(content) == stop - start else None
            for content, start, stop in zip(found, starts, stops, strict=True)
        ]

    def _tried(self, url: str, read: Callable[[Any], T]) -> T:
        begin, wait, attempts = time.monotonic(), FIRST_WAIT, 0
        while True:
            try:
                return read(self._file_system())
            except BadInput:
                raise
            except FileNotFoundError as error:
                raise BadInput(f"{url} does not exist in the store", settings=("data.root",)) from error
            except Exception as error:  # drivers raise the errors of their own libraries
                cause = _cause(error)
                if isinstance(error, PermissionError) or _is_about_credentials(error):
                    raise BadInput(
                        f"{url} cannot be read, because the store refuses access or finds no credentials: {cause}. "
                        f"{_credentials(url)}",
                        settings=("data.root",),
                    ) from error
                attempts += 1
                seconds = time.monotonic() - begin
                if attempts > 1 and seconds > PATIENCE:
                    raise StoreError(
                        f"{url} cannot be read: {cause}. {attempts} attempts within {seconds:.0f} seconds failed. When "
                        "the store answers again, resume the run with `resume`",
                        settings=("resume",),
                    ) from error
                self._system = None  # its connections may be broken
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _file_system(self) -> Any:
        """The driver of this process. Connections do not survive a fork."""
        if self._system is None or self._process != os.getpid():
            self._system, self._process = _driver(self.url), os.getpid()
        return self._system


def _driver(url: str) -> Any:
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True)
    except ImportError as error:
        raise BadInput(
            f"to read {url}, a driver for {scheme}:// is needed: {error}. "
            "For S3, `python -m pip install 'backbone-swap[s3]'`",
        ) from error
    except ValueError as error:
        raise BadInput(f"{url} is no address that can be read: {error}", settings=("data.root",)) from error


def _is_about_credentials(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in _NO_CREDENTIALS)


def _credentials(url: str) -> str:
    if url.startswith("s3://"):
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket FSSPEC_S3_ANON=true"
        )
    return "Log in as the driver's documentation says"


def _cause(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
