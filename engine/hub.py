"""Runs on the Hugging Face Hub: `hf://OWNER/NAME[@REVISION]`, as safetensors with a model card. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from backbones.errors import BadInput, UserError, first_line
from backbones.weight_files import RUN_KEY
from data.hub import Address, address, snapshot
from engine.checkpoint import RunInfo
from engine.runtimes.files import FILES
from engine.schema import SCHEMA

RUN_FILE = "model.safetensors"
# Of a repository that holds a run or an exported file. Others, such as pickled weights, are not downloaded.
WANTED = (RUN_FILE, FILES["onnx"], FILES["openvino"], "model.bin", "record.json", "export.json")


@cache
def local_checkpoint(place: str) -> str:
    """The folder of a run of the Hub, which is downloaded first, once for each process. Other paths are returned as is.

    Raises BadInput if there is no such repository, if it has no run or exported file, or if it cannot be downloaded.
    """
    found = address(place, "checkpoint")
    if found is None:
        return place
    return str(snapshot(found, "model", _wanted, WANTED, "checkpoint") / found.folder)


def _wanted(found: Address, files: list[str]) -> list[str]:
    """The files to download. Raises BadInput if there is no run among them."""
    prefix = f"{found.folder}/" if found.folder else ""
    here = [file for file in files if file.removeprefix(prefix) in WANTED]
    if not any(Path(file).name.startswith("model.") for file in here):
        raise BadInput(
            f"{found} holds neither {RUN_FILE} with a run nor an exported file: the export command did not write it",
            settings=("checkpoint",),
        )
    return here


def save_run(info: RunInfo, model: nn.Module, file: Path) -> None:
    """Write a run's weights with its description. Every command reads the file as a checkpoint."""
    state = {name: value.contiguous() for name, value in model.state_dict(prefix="model.").items()}
    shared: dict[int, str] = {}
    for name, value in state.items():  # safetensors refuses tensors that share memory
        if shared.setdefault(value.data_ptr(), name) != name and value.numel():
            state[name] = value.clone()
    save_file(state, file, {RUN_KEY: json.dumps({"schema": SCHEMA, **vars(info)}), "format": "pt"})


def push(folder: Path, name: str, private: bool) -> str:
    """Upload the files of a folder to the repository OWNER/NAME, which is created if it does not exist.

    Returns the address. Raises UserError without a login or the right to write, BadInput if the upload fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository.repo_id, folder_path=folder, commit_message=f"Export of {folder.name}")
    except LocalTokenNotFoundError as error:
        raise UserError("`push` needs a login: run `hf auth login`", settings=("push",)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"`push={name}`: this login may not write there ({status}). Log in with `hf auth login`",
                settings=("push",),
            ) from error
        raise _not_uploaded(folder, name, error) from error
    except ValueError as error:  # a malformed name
        raise UserError(f"`push={name}` is not OWNER/NAME: {first_line(error)}", settings=("push",)) from error
    except Exception as error:  # errors of the network have the types of whichever HTTP library the client uses
        raise _not_uploaded(folder, name, error) from error
    return f"hf://{repository.repo_id}"


def model_card(name: str, info: RunInfo, record: Mapping[str, Any] | None, document: Mapping[str, Any]) -> str:
    """README.md for the Hub: what the network is, its data, its score, the origin of its weights and their licence.

    Args:
        name: OWNER/NAME of the repository.
        info: description of the run.
        record: record.json of the run; None for published weights.
        document: export.json of the file.
    """
    provenance, dataset = info.provenance, info.dataset
    licence = provenance.get("license")
    metrics = document["metrics"]["exported"]
    data = Path(dataset.get("root") or dataset.get("published") or "unknown").name
    header = {
        "library_name": "backbone-swap",
        "license": "other" if licence else "unknown",
        "tags": [info.task, info.config["backbone"]],
    }
    scores = "\n".join(f"| {name} | {100 * value:.2f} |" for name, value in metrics.items() if value == value)
    trained = (
        f"{record['config']['epochs']} epochs, seed {record['config']['seed']}" if record else "not by this package"
    )
    shown = info.classes[:20]
    more = f" and {len(info.classes) - len(shown)} more" if len(info.classes) > len(shown) else ""
    facts = {
        "task": info.task,
        "backbone": info.config["backbone"],
        "classes": ", ".join(shown) + more,
        "input": "x".join(map(str, info.preprocessing["size"])) + " px",
        "data": data,
        "training": trained,
        "initial weights": provenance.get("source", "unknown"),
        "pretraining data": provenance.get("data") or "unknown",
        "licence of the initial weights": licence or "unknown",
    }
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return (
        f"---\n{json.dumps(header)}\n---\n\n# {info.config['backbone']}, {info.task}\n\n| | |\n|---|---|\n{rows}\n\n"
        f"Scores on {document['images']} validation images, in percent:\n\n| metric | score |\n|---|---|\n{scores}\n\n"
        f"```bash\npython -m {info.task}.predict --checkpoint hf://{name} --images PHOTOS\n```\n"
    )


def _cell(value: object) -> str:
    """A value in a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _not_uploaded(folder: Path, name: str, error: Exception) -> BadInput:
    """The error for a failed upload. The caller raises it."""
    return BadInput(
        f"{folder} could not be uploaded to {name}: {first_line(error)}. The files are complete; to try again, run "
        f"`hf upload {name} {folder}`"
    )
