"""The package as a library: public names, `load_run(path).predict(images)`, hidden packages, and spawned processes."""

import json
import os
import pickle
import subprocess
import sys
from importlib import import_module, metadata
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import experiments
from backbones.errors import BadInput, UserError
from data.batch import Draw
from experiments import Run, load_run
from experiments.tasks import TASKS
from tests.classification.conftest import write_folders
from tests.commands import run
from tests.detection.conftest import write_coco
from tests.segmentation.conftest import UNLABELLED, write_masks

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "backbones": ("create_backbone", "create_neck", "list_backbones", "prepare_for_inference"),
    "classification": ("ClassificationResult", "create_classifier"),
    "detection": ("DetectionResult", "create_detector"),
    "segmentation": ("SegmentationResult", "create_segmenter"),
    "experiments": ("Run", "load_run"),
}
WRITERS = {"classification": write_folders, "detection": write_coco, "segmentation": write_masks}


def python(*arguments, cwd):
    """A new Python in the folder `cwd`, which comes before this checkout on its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


# --- public names


def test_public_names_are_imported_when_they_are_used():
    code = "\n".join(
        [
            f"import sys, {', '.join(PACKAGES)}",
            *(f"assert set({names}) <= set(dir({package}))" for package, names in PACKAGES.items()),
            "assert not {'torch', 'numpy', 'lightning'} & set(sys.modules)",
            *(f"from {package} import {', '.join(names)}" for package, names in PACKAGES.items()),
            "assert 'torch' in sys.modules",
        ]
    )
    done = python("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists(package):
    module = import_module(package)
    assert set(PACKAGES[package]) <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'no_such_name'"):
        _ = module.no_such_name


def test_version_is_that_of_the_distribution(monkeypatch):
    def version(name):
        assert name == "backbone-swap"
        if installed:
            return "1.2.3"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    installed = True
    assert experiments.__version__ == "1.2.3"
    installed = False
    assert experiments.__version__ == "0+unknown"


# --- runs


@pytest.fixture(scope="module", params=TASKS)
def trained(request, tmp_path_factory):
    """(task, data, run folder) of a training of one epoch."""
    task = request.param
    root = WRITERS[task](tmp_path_factory.mktemp(task) / "rectangles")
    folder = tmp_path_factory.mktemp("runs") / task
    run(
        import_module(f"{task}.train"), "--data.root", root, "--output", folder, "--pretrained", "false",
        "--backbone", "resnet18", "--image_size", 64, "--epochs", 1, "--batch_size", 4, "--data.workers", 0,
        *(["--data.ignore_index", UNLABELLED] if task == "segmentation" else []),
    )  # fmt: skip
    return task, root, folder


@pytest.fixture(scope="module")
def loaded(trained):
    return load_run(trained[2])


def photos(root, count=2):
    """Validation images of different content."""
    return sorted(path for path in root.rglob("*.png") if "val" in path.parts and "annotations" not in path.parts)[
        :count
    ]


def test_predict_equals_the_command(trained, loaded, tmp_path):
    task, root, folder = trained
    images = tmp_path / "images"
    images.mkdir()
    for i, photo in enumerate(photos(root)):
        (images / f"{i}.png").write_bytes(photo.read_bytes())
    run(import_module(f"{task}.predict"), "--checkpoint", folder, "--images", images, "--output", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for name, result in zip(("0", "1"), loaded.predict([images / "0.png", images / "1.png"]), strict=True):
        records = [record for record in written if record["file"] == f"{name}.png"]
        assert records
        if task == "detection":
            assert (np.diff(result.scores) <= 0).all()
            boxes = np.array([record["bbox"] for record in records])
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_allclose(result.boxes, boxes, atol=0.011)
            np.testing.assert_allclose(result.scores, [record["score"] for record in records], atol=6e-6)
            ids = loaded.info.extra["category_ids"]
            assert [ids[label] for label in result.labels] == [record["category_id"] for record in records]
        elif task == "segmentation":
            assert np.array_equal(result.class_map, np.asarray(Image.open(tmp_path / "out" / f"{name}.png")))
            assert [*result.shares.items()] == [(record["class"], record["share"]) for record in records]
        else:
            top = [(best["class"], best["probability"]) for best in records[0]["top"]]
            assert [(name, round(share, 5)) for name, share in result.top()] == top
            assert result.name == records[0]["class"]
            assert result.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_images_come_in_every_form(trained, loaded, tmp_path):
    path, other = photos(trained[1])
    image = Image.open(path)
    expected = loaded.predict(path)
    assert loaded.predict(path) == expected
    assert loaded.predict(other) != expected
    forms = [str(path), image, image.convert("RGBA"), np.asarray(image), np.asarray(image)[::-1][::-1]]
    for form in forms:
        assert loaded.predict(form) == expected
    assert loaded.predict(forms) == [expected] * len(forms)
    assert loaded.predict(form for form in (path, image)) == [expected, expected]
    assert loaded.predict([]) == []
    gray = np.asarray(image.convert("L"))
    assert loaded.predict(gray) == loaded.predict(image.convert("L")) == loaded.predict(np.stack([gray] * 3, axis=2))


def test_results_print_and_plot(trained, loaded):
    task, root, _ = trained
    path, _ = photos(root)
    result = loaded.predict(path)
    image = np.asarray(Image.open(path))
    assert np.array_equal(result.image, image)
    assert isinstance(loaded, Run)
    assert repr(loaded).startswith(f"{task} run: resnet18, {len(loaded.classes)} classes")
    assert f"{image.shape[1]} x {image.shape[0]} pixels" in str(result).splitlines()[0]
    assert isinstance(result.plot(), Image.Image)
    assert result.plot().height >= image.shape[0]
    with pytest.raises(TypeError, match="unhashable"):
        hash(result)


@pytest.mark.parametrize("trained", ["detection"], indirect=True)
def test_photographs_are_turned_upright(loaded, tmp_path):
    """The right half of the upright image is bright, and the top half of the stored one."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to view
    for name in ("turned.jpg", "turned.png", "turned.tif"):
        path = tmp_path / name
        Image.fromarray(pixels).save(path, exif=exif, **{"quality": 95} if name.endswith("jpg") else {})
        upright = loaded.predict(path)
        assert upright.image.shape == (60, 40, 3)
        assert upright.image[:, 22:].min() > 190 > 10 > upright.image[:, :18].max()
        stored = loaded.predict(path, exif="ignore")
        assert stored.image.shape == (40, 60, 3)
        assert stored.image[:18].min() > 190 > 10 > stored.image[22:].max()
        assert loaded.predict(Image.open(path)) == upright
        assert loaded.predict(Image.open(path), exif="ignore") == stored
        assert loaded.predict([path, path]) == [upright, upright]
        assert loaded.predict(stored.image) == stored  # an array has no orientation
    loaded_before = Image.open(tmp_path / "turned.tif")
    loaded_before.load()  # turns it upright and removes the tag
    assert loaded.predict(loaded_before, exif="ignore") == loaded.predict(tmp_path / "turned.tif")
    with pytest.raises(UserError, match="`exif` must be apply or ignore, not 'auto'"):
        loaded.predict(path, exif="auto")


@pytest.mark.parametrize("trained", ["detection"], indirect=True)
def test_sixteen_bits_are_read_as_in_the_training(loaded, tmp_path, monkeypatch):
    values = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.unique(loaded.predict(tmp_path / "deep.png").image).tolist() == list(range(10))  # the high bytes
    monkeypatch.setattr(loaded._predictor, "levels", [0, 2399])
    result = loaded.predict(tmp_path / "deep.png")
    assert np.unique(result.image).tolist() == list(range(256))
    assert loaded.predict(Image.open(tmp_path / "deep.png")) == result


@pytest.mark.parametrize("trained", ["detection"], indirect=True)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"not a tensor \(2, 3, 8, 8\).*`model` takes tensors"),
        ([torch.zeros(3, 8, 8)], r"not a tensor \(3, 8, 8\)"),
        (np.zeros((8, 8, 3)), r"\(8, 8, 3\) of float64: scale its values to 0..255"),
        (np.zeros((4, 8, 8, 3), np.uint8), "several images"),
        (np.zeros((3, 8, 8), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((8, 8, 4), np.uint8), "drop alpha"),
        (np.zeros((8, 8, 1), np.uint8), "for gray"),
        (np.zeros((0, 8, 3), np.uint8), r"array \(0, 8, 3\)"),
        (np.zeros((8, 8), np.uint16), "of uint16"),
        (b"\xff\xd8", "not bytes: open them with"),
        ({"image": 1}, "not dict"),
        (7, "an image is a path, a PIL image, or a uint8 array .*, not int"),
        ([None], "not NoneType"),
    ],
)
def test_what_is_no_image_is_refused(loaded, wrong, message):
    with pytest.raises(TypeError, match=message):
        loaded.predict(wrong)


@pytest.mark.parametrize("trained", ["detection"], indirect=True)
def test_files_that_are_no_image_are_named(loaded, tmp_path):
    with pytest.raises(BadInput, match=r"is a folder: pass a list of its files") as caught:
        loaded.predict(tmp_path)
    assert "--" not in str(caught.value)
    with pytest.raises(BadInput, match=r"nothing\.jpg"):
        loaded.predict(tmp_path / "nothing.jpg")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for form in (tmp_path / "cut.png", Image.open(tmp_path / "cut.png")):
        with pytest.raises(BadInput, match=r"cannot decode image .*cut\.png"):
            loaded.predict(form)
    with pytest.raises(BadInput, match="floating-point pixels"):
        loaded.predict(Image.new("F", (8, 8)))


@pytest.mark.parametrize("trained", ["detection"], indirect=True)
def test_load_run_takes_runs_alone(trained, loaded, tmp_path):
    file = trained[2] / "checkpoints" / "last.ckpt"
    assert load_run(str(file)).info == loaded.info
    torch.save(loaded.model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(BadInput, match=r"not a run's checkpoint.*create_detector\(.*weights\.pth") as caught:
        load_run(tmp_path / "weights.pth")
    assert "--" not in str(caught.value)
    with pytest.raises(BadInput, match="neither a checkpoint nor a run folder"):
        load_run(tmp_path)


# --- packages of the user's own


@pytest.mark.parametrize(
    ("command", "own"),
    [("detection.train", "data"), ("experiments.compare", "detection"), ("segmentation.eval", "engine")],
)
def test_a_package_that_hides_ours_is_named(tmp_path, command, own):
    (tmp_path / own).mkdir()
    (tmp_path / own / "__init__.py").write_text("raise RuntimeError('it is not imported')\n")
    done = python("-m", command, "--help", cwd=tmp_path)
    message = f"the package '{own}' was found at {tmp_path / own}, not at {ROOT / own}: it hides backbone-swap's own."
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message} Rename it, or run from another folder.\n"
    done = python("-c", f"import {command.partition('.')[0]}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {message}")


def test_a_module_that_hides_ours_is_named(tmp_path):
    (tmp_path / "data.py").write_text("VALUES = 1\n")
    done = python("-m", "classification.predict", "--help", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the package 'data' was found at {tmp_path / 'data.py'}, not at {ROOT}")
    done = python("-c", "import data, experiments", cwd=tmp_path)  # as in a notebook that has its own by now
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: the package 'data' was found at {tmp_path}")


def test_folders_without_init_hide_nothing(tmp_path):
    for folder in ("data/images", "engine", "detection"):
        (tmp_path / folder).mkdir(parents=True)
    code = "import data.images, engine.cli, experiments.tasks; print(data.images.__file__)"
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "data" / "images.py")
    done = python("-m", "detection.train", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# --- spawned processes, as on macOS and Windows


def test_data_sets_can_be_sent_to_spawned_workers(trained):
    task, root, folder = trained
    config = TASKS[task].train_config.of(load_run(folder).info.config)
    _, *datasets = TASKS[task].load_task().prepare(config, root)
    for dataset in datasets:
        sent = pickle.loads(bytes(ForkingPickler.dumps(dataset)))
        for draw in (1, Draw(2, 12345, 0)):
            for value, expected in zip(_values(sent[draw]), _values(dataset[draw]), strict=True):
                assert np.array_equal(value, expected)


def _values(sample):
    return [np.asarray(value) for value in vars(sample).values() if value is not None]


@pytest.mark.parametrize("trained", ["classification"], indirect=True)
@pytest.mark.slow
def test_train_with_spawned_workers(trained, tmp_path):
    _, root, _ = trained
    arguments = [
        "--data.root", str(root), "--output", "run", "--pretrained", "false", "--backbone", "resnet18", "--epochs", "1",
        "--image_size", "64", "--data.workers", "1",
    ]  # fmt: skip
    code = (
        "import multiprocessing as mp, torch\n"
        "mp.set_start_method('spawn')\n"
        "from data import loader\n"
        "from classification.train import main\n"
        "made = []\n"
        "class Watched(loader.Loader):\n"
        "    def __init__(self, source, **options):\n"
        "        super().__init__(source, **options)\n"
        "        made.append(self.multiprocessing_context or mp.get_context())\n"
        "loader.Loader = Watched\n"
        f"main({arguments!r})\n"
        "assert len(made) == 2 and all(context.get_start_method() == 'spawn' for context in made), made\n"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "record.json").is_file()


@pytest.mark.parametrize("trained", ["classification"], indirect=True)
def test_scripts_without_a_guard(trained, loaded, tmp_path):
    """Prediction and loaders with the default number of workers start no process that would run the script again."""
    _, root, folder = trained
    photo, _ = photos(root)
    (tmp_path / "script.py").write_text(
        "import multiprocessing as mp, os\n"
        "mp.set_start_method('spawn')\n"
        "os.sched_getaffinity = lambda _: set(range(16))\n"
        "from data import ClassDataset, train_loader\n"
        "from data.transforms import Transform\n"
        "from experiments import load_run\n"
        f"run = load_run({str(folder)!r})\n"
        f"print(run.predict({str(photo)!r}))\n"
        f"dataset = ClassDataset.open({str(root)!r}, 'train').with_transform(run._predictor.task.transform())\n"
        "loader = train_loader(dataset, 4, seed=0)\n"
        "print('workers', loader.num_workers, 'images', sum(len(batch) for batch in loader))\n"
    )
    done = python("script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{loaded.predict(photo)}\nworkers 0 images 16\n"


def test_a_script_without_a_guard_that_asks_for_workers_is_refused_by_python(tmp_path):
    (tmp_path / "script.py").write_text(
        "import multiprocessing as mp\n"
        "mp.set_start_method('spawn', force=True)\n"
        "from data import eval_loader\n"
        "list(eval_loader([1, 2], 1, workers=1))\n"
    )
    done = python("script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr
    assert "DataLoader worker" in done.stderr
