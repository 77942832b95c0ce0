"""Repositories of the Hugging Face Hub as folders on this machine: `hf://OWNER/NAME[@REVISION][/FOLDER]`.

Of data sets, only Arrow and Parquet files and descriptions of classes are downloaded, never code.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from backbones.errors import BadInput
from data import stores
from data.shards import local_copy

_ADDRESS = re.compile(
    r"hf:/+(?:datasets/)?(?P<name>(?>[\w.-]+(?:/[\w.-]+)?))(?:@(?P<revision>refs/[\w-]+/[\w.-]+|[^/@]+))?(?:/(?P<folder>.+))?"
)
TABLES = (".parquet", ".arrow")
# What describes the splits and names the classes of a data set, besides its tables.
DESCRIPTIONS = ("README.md", "dataset_dict.json", "dataset_info.json", "state.json", "id2label.json", "classes.txt")

log = logging.getLogger(__name__)


class Address(NamedTuple):
    """A repository of the Hub, or a folder in it.

    Attributes:
        name: OWNER/NAME.
        revision: branch, tag or commit.
        folder: in the repository, "" for all of it.
    """

    name: str
    revision: str
    folder: str

    def __str__(self) -> str:
        return f"hf://{self.name}@{self.revision}" + (f"/{self.folder}" if self.folder else "")


def address(root: str | Path, setting: str = "data.root") -> Address | None:
    """The address of a repository of the Hub; None for other paths. A `Path` of it has one slash after `hf:`.

    Raises BadInput for a malformed address.
    """
    text = Path(root).as_posix()
    if text != "hf:" and not text.startswith("hf:/"):
        return None
    found = _ADDRESS.fullmatch(text)
    if found is None or ".." in PurePosixPath(text).parts:
        raise BadInput(
            f"{text} is not an address of the Hub: expected hf://OWNER/NAME[@REVISION][/FOLDER]", settings=(setting,)
        )
    return Address(found["name"], found["revision"] or "main", found["folder"] or "")


@cache
def local_root(root: Path) -> Path:
    """The folder of a data set on this machine. A data set of the Hub is downloaded first, once for each process.

    Of shards in an object store, only the index is copied to this machine, see `data.shards`. Without a network, a copy
    of a data set of the Hub that was downloaded earlier is read, which is a warning. Other paths are returned as they
    are.

    Raises BadInput if there is no such data set, if it has no tables, or if it cannot be downloaded.
    """
    found = address(root)
    if found is None:
        return root if (url := stores.address(root)) is None else local_copy(url)
    return snapshot(found, "dataset", _wanted, [f"*{suffix}" for suffix in TABLES], "data.root") / found.folder


def snapshot(
    found: Address,
    kind: Literal["dataset", "model"],
    wanted: Callable[[Address, list[str]], list[str]],
    cached: Sequence[str],
    setting: str,
) -> Path:
    """Download files of a repository of the Hub. Returns the folder that holds them.

    Args:
        found: the repository.
        kind: of the repository.
        wanted: address and names of all files -> names of the files to download.
        cached: patterns of the files that an earlier copy must have, which is read without a network.
        setting: the setting that holds the address, for messages.

    Raises BadInput if there is no such repository, or if it cannot be downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    noun = "data set" if kind == "dataset" else kind
    place: dict[str, Any] = {"repo_type": kind, "revision": found.revision}
    try:
        info = HfApi().repo_info(found.name, **place)
        files = wanted(found, sorted(file.rfilename for file in getattr(info, "siblings", None) or []))
        log.info("%s: %d files of commit %s", found, len(files), info.sha)
        patterns = [glob.escape(file) for file in files]
        return Path(snapshot_download(found.name, **place, allow_patterns=patterns))
    except BadInput:
        raise
    except GatedRepoError as error:
        raise BadInput(f"{found} needs the consent of its owner: ask for it on the Hub, then log in") from error
    except RevisionNotFoundError as error:
        raise BadInput(f"{found.name} has no revision '{found.revision}'", settings=(setting,)) from error
    except RepositoryNotFoundError as error:
        raise BadInput(
            f"the Hub has no {noun} {found.name}, or it is private: log in with `hf auth login`", settings=(setting,)
        ) from error
    except Exception as error:  # errors of the network have the types of whichever HTTP library the client uses
        try:
            folder = snapshot_download(
                found.name,
                **place,
                allow_patterns=list(cached),
                local_files_only=True,
            )
        except Exception:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadInput(
                f"{found} cannot be downloaded, and there is no earlier copy on this machine: {reason}. Download it "
                f"where there is a network, `hf download --repo-type {kind} {found.name}`, and pass the folder"
            ) from error
        log.warning("%s cannot be reached: its copy on this machine is read, %s", found, folder)
    return Path(folder)


def _wanted(found: Address, files: list[str]) -> list[str]:
    """The files to download. Raises BadInput if there is no table among them."""
    own = [file for file in files if not found.folder or file.startswith(f"{found.folder}/")]
    tables = [file for file in own if file.lower().endswith(TABLES)]
    if not tables:
        script = next((file for file in own if file.endswith(".py")), None)
        has = (
            f"a loading script, {script}, which is not run" if script else f"no Arrow or Parquet files among {len(own)}"
        )
        other = Address(found.name, "refs/convert/parquet", "")
        raise BadInput(
            f"{found} has {has}. The Hub converts many data sets to Parquet: try `root={other}`",
            settings=("data.root",),
        )
    return tables + [file for file in files if PurePosixPath(file).name in DESCRIPTIONS]
