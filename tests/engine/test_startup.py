"""What commands import. One more package can double the time from the command to its first result."""

import gc
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.checkpoint import RunInfo
from engine.entry import without_collection
from experiments.tasks import TASKS

V1 = Path(__file__).parents[1] / "fixtures" / "v1"
BACKBONE = "tf_efficientnet_lite0"  # of this package, so that timm is not needed
OURS = {"backbones", "data", "engine", *TASKS}
# Of the command line.
PARSING = {"attr", "attrs", "docstring_parser", "jsonargparse", "typeshed_client", "typing_extensions", "yaml"}
# Besides what torch imports.
WORKING = PARSING | {"PIL", "cv2", "filelock", "huggingface_hub", "pycocotools", "rich", "safetensors"}
CODE = """
import sys
if {with_torch}:
    import torch
before = {{name.partition(".")[0] for name in sys.modules}}
from {module} import main
try:
    main()  # as a program
except SystemExit as stop:
    assert not stop.code, stop.code
new = {{name.partition(".")[0] for name in sys.modules}} - before - sys.stdlib_module_names
compiled = {{name for name in new if "cython" in name.lower()}}
print(*sorted(new - compiled), *(["torch._dynamo"] if "torch._dynamo" in sys.modules else []))
"""


def imported(module, *arguments, with_torch=True):
    """Packages that a command imports, without the standard library; if `with_torch`, without those of torch too."""
    code = CODE.format(module=module, with_torch=with_torch)
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def write_run(spec, folder):
    """A run folder with a checkpoint of random weights."""
    config = spec.train_config(backbone=BACKBONE, **({} if spec.name == "classification" else {"phi": "lite0"}))
    classes = list(json.loads((V1 / spec.name / "per_class.json").read_text()))
    neck = getattr(config, "decoder", getattr(config, "neck", None))
    info = RunInfo(
        task=spec.name,
        dataset={"root": None},
        config=asdict(config),
        classes=classes,
        preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3, "size": [64, 64], "interpolation": "bicubic",
                       "crop_pct": 0.875, "crop_mode": "center"},
        provenance={"source": "random"},
        extra={"neck": neck, "phi": "lite0", "category_ids": list(range(1, len(classes) + 1)), "anchor_scale": 4.0,
               "crop": [64, 64]},
    )  # fmt: skip
    task = spec.load_task()(spec.build_model(config, len(classes)), config, info)
    checkpoint = {"state_dict": {f"model.{key}": value for key, value in task.model.state_dict().items()}}
    task.on_save_checkpoint(checkpoint)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.mark.parametrize("command", ["detection.predict", "segmentation.train", "experiments.serve.__main__"])
def test_help(command):
    assert imported(command, "--help", with_torch=False) <= OURS | PARSING | {"experiments"}


@pytest.mark.parametrize(
    "task", ["detection", *(pytest.param(t, marks=pytest.mark.slow) for t in ("segmentation", "classification"))]
)
def test_predict(task, tmp_path, photo):
    folder = write_run(TASKS[task], tmp_path / "run")
    found = imported(f"{task}.predict", "--checkpoint", folder, "--images", photo, "--output", tmp_path / "out",
                     "--device", "cpu")  # fmt: skip
    assert found <= OURS | WORKING


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_eval(task, tmp_path):
    """Boxes and masks are transformed by albumentations, and comparisons of scores use scipy; never Lightning."""
    found = imported(f"{task}.eval", "--checkpoint", write_run(TASKS[task], tmp_path / "run"), "--device", "cpu",
                     "--data.workers", 0, "--data.root", V1 / "data" / task)  # fmt: skip
    assert not found & {"lightning", "torchmetrics", "tensorboard", "matplotlib", "segmentation_models_pytorch"}


def test_results_are_written_before_the_process_ends(tmp_path, photo):
    """The objects of imported modules are not collected at the end; open files still are closed."""
    code = "from engine.entry import without_collection\nwith without_collection(for_good=True):\n    import json\n"
    code += f"file = open({str(tmp_path / 'text')!r}, 'w')\nfile.write('all of it')\nprint('printed', end='')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, (tmp_path / "text").read_text()) == ("printed", "all of it")


def test_garbage_is_collected_after_imports():
    with without_collection():
        assert not gc.isenabled()
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)
