"""The predict command on folders as people have them: nothing is lost, and what cannot be read is named."""

import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detection import predict as predict_boxes
from detection import train as train_detector
from detection.task import DetectionTask
from engine import predict as module
from engine.json_stream import JsonStream
from segmentation import predict as predict_masks
from segmentation import train as train_segmenter
from tests.commands import fails, run
from tests.detection.conftest import coco_root  # noqa: F401
from tests.reliability.conftest import fill, small_disk  # noqa: F401
from tests.segmentation.conftest import UNLABELLED, mask_root  # noqa: F401

TINY = ["--backbone", "resnet18", "--pretrained", "false", "--image_size", 64, "--epochs", 1, "--batch_size", 4,
        "--data.workers", 0]  # fmt: skip


@pytest.fixture(scope="module")
def detector(coco_root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("runs") / "detector"
    run(train_detector, "--data.root", coco_root, "--output", folder, *TINY)
    return folder


@pytest.fixture(scope="module")
def segmenter(mask_root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("runs") / "segmenter"
    run(train_segmenter, "--data.root", mask_root, "--output", folder, "--data.ignore_index", UNLABELLED, *TINY)
    return folder


def photo(height=60, width=80, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Images of equal stems, a truncated one, an empty one, hidden files, and a folder that is named like an image."""
    root = tmp_path / "photos"
    (root / "inner").mkdir(parents=True)
    (root / "folder.jpg").mkdir()
    photo(60, 80, 1).save(root / "a.jpg")
    photo(50, 40, 2).save(root / "a.png")
    photo(64, 96, 3).save(root / "inner" / "a.jpg")
    content = io.BytesIO()
    photo().save(content, "JPEG")
    (root / "cut.jpg").write_bytes(content.getvalue()[:900])
    (root / "empty.png").touch()
    (root / "._a.jpg").write_bytes(b"\0\5\x16\7" + bytes(60))
    (root / ".hidden.jpg").write_bytes(content.getvalue())
    (root / "notes.txt").write_text("no image")
    return root


def results(output):
    predictions = json.loads((output / "predictions.json").read_text())
    return predictions, json.loads((output / "images.json").read_text())


def files(output):
    return sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())


@pytest.mark.case("R11")
def test_bad_files_are_named_and_the_rest_is_predicted(detector, folder, tmp_path, capsys):
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", folder, "--output", tmp_path / "o")
    assert "error: 2 of 4 image files could not be read: cut.jpg, empty.png." in message
    assert message.count("skipped: ") == 2
    for silent in ("._a.jpg", ".hidden.jpg", "notes.txt", "folder.jpg"):
        assert silent not in message
    assert files(tmp_path / "o") == ["a.jpg.jpg", "a.png.jpg", "images.json", "predictions.json"]
    predictions, images = results(tmp_path / "o")
    assert {record["file"] for record in predictions} == {"a.jpg", "a.png"}
    assert images["images"] == [
        {"id": 0, "file_name": "a.jpg", "width": 80, "height": 60},
        {"id": 1, "file_name": "a.png", "width": 40, "height": 50},
    ]
    assert [image["file_name"] for image in images["skipped"]] == ["cut.jpg", "empty.png"]
    assert "truncated" in images["skipped"][0]["reason"]
    assert "empty (0 bytes)" in images["skipped"][1]["reason"]


def test_sub_folders_are_kept_in_the_results(detector, folder, tmp_path, capsys):
    (folder / "cut.jpg").unlink()
    (folder / "empty.png").unlink()
    run(predict_boxes, "--checkpoint", detector, "--images", folder, "--recursive", "true", "--output", tmp_path / "o")
    assert files(tmp_path / "o") == ["a.jpg.jpg", "a.png.jpg", "images.json", "inner/a.jpg", "predictions.json"]
    predictions, images = results(tmp_path / "o")
    ids = {record["file"]: record["image_id"] for record in predictions}
    assert ids == {"a.jpg": 0, "a.png": 1, "inner/a.jpg": 2}
    assert images["skipped"] == []
    assert "3 images: pictures and predictions.json" in capsys.readouterr().out


def test_nothing_readable(detector, folder, tmp_path, capsys):
    for name in ("a.jpg", "a.png"):
        (folder / name).write_bytes(b"no image")
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", folder, "--output", tmp_path / "o")
    assert "error: none of the 4 image files could be read: a.jpg, a.png, cut.jpg, empty.png" in message
    assert results(tmp_path / "o")[0] == []
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", folder / "cut.jpg",
                    "--output", tmp_path / "p")  # fmt: skip
    assert "error: cannot decode image" in message


def test_the_results_are_coco_results(detector, folder, tmp_path):
    """The file `images.json` holds their images. With a COCO file the ids are the file's."""
    (folder / "list.json").write_text(
        json.dumps({"images": [{"id": 41, "file_name": "a.png"}, {"id": 7, "file_name": "inner/a.jpg"}]})
    )
    run(predict_boxes, "--checkpoint", detector, "--images", folder / "list.json", "--output", tmp_path / "o")
    predictions, images = results(tmp_path / "o")
    assert [(image["id"], image["file_name"]) for image in images["images"]] == [(41, "a.png"), (7, "inner/a.jpg")]
    truth = COCO()
    truth.dataset = images | {"annotations": [], "categories": [{"id": 2, "name": "red"}, {"id": 5, "name": "green"}]}
    truth.createIndex()
    loaded = truth.loadRes(predictions)
    assert set(loaded.getImgIds()) == {41, 7}
    assert len(loaded.anns) == len(predictions) > 0


def test_an_image_without_objects_is_listed(detector, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(DetectionTask, "prediction_records", lambda self, predictions, image_id: [])
    run(predict_boxes, "--checkpoint", detector, "--images", folder / "a.jpg", "--output", tmp_path / "o")
    predictions, images = results(tmp_path / "o")
    assert predictions == []
    assert [image["file_name"] for image in images["images"]] == ["a.jpg"]


def test_several_paths_and_patterns(detector, folder, tmp_path):
    (folder / "empty.png").unlink()
    run(predict_boxes, "--checkpoint", detector, "--images", folder / "*.png", folder / "inner", "--output",
        tmp_path / "o", "--pictures", "false")  # fmt: skip
    assert {record["file"] for record in results(tmp_path / "o")[0]} == {"a.png", "inner/a.jpg"}
    assert files(tmp_path / "o") == ["images.json", "predictions.json"]


@pytest.mark.parametrize(
    "name", ["*.jpg", "a, b [1].jpg", "12", "ü 红 \U0001f34e.jpg", "a: b.png", "#1.jpg", "'q\".jpg"]
)
def test_paths_with_any_characters(name, detector, tmp_path, monkeypatch):
    """The list of paths passes through YAML, in which these characters have a meaning."""
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    file = "y.jpg" if "*" in name else name
    photo().save(file, "JPEG")
    for number, form in enumerate((["--images", name], [f"--images={name}"])):
        run(predict_boxes, "--checkpoint", detector, *form, "--output", tmp_path / f"o{number}")
        assert {record["file"] for record in results(tmp_path / f"o{number}")[0]} == {file}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_file_names_that_are_not_utf8(detector, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / "photos").mkdir()
    photo().save(tmp_path / "photos" / name)
    run(predict_boxes, "--checkpoint", detector, "--images", tmp_path / "photos", "--output", tmp_path / "o")
    assert {record["file"] for record in results(tmp_path / "o")[0]} == {name}


def test_frames_of_an_animation(detector, tmp_path):
    """Each frame has an id, a name and a number; a still GIF is one image."""
    photos = tmp_path / "photos"
    photos.mkdir()
    frames = [photo(seed=seed) for seed in range(3)]
    frames[0].save(photos / "b.gif", save_all=True, append_images=frames[1:])
    frames[0].save(photos / "a.gif")
    photo().save(photos / "b-0002.png")
    photo().save(photos / "c.png")
    run(predict_boxes, "--checkpoint", detector, "--images", photos, "--output", tmp_path / "o")
    assert files(tmp_path / "o") == [
        "a.jpg", "b-0001.jpg", "b-0002.jpg", "b-0003.jpg", "b.gif-0002.jpg", "c.jpg", "images.json", "predictions.json"
    ]  # fmt: skip
    predictions, images = results(tmp_path / "o")
    assert [(image["id"], image["file_name"], image.get("frame")) for image in images["images"]] == [
        (0, "a.gif", None), (1, "b-0002.png", None), (2, "b.gif", 1), (3, "b.gif", 2), (4, "b.gif", 3),
        (5, "c.png", None),
    ]  # fmt: skip
    assert {(record["image_id"], record.get("frame")) for record in predictions} >= {(2, 1), (3, 2), (4, 3), (5, None)}


def test_frames_before_an_error_are_kept(detector, tmp_path, capsys):
    frames = [photo(seed=seed).convert("P") for seed in range(4)]
    frames[0].save(tmp_path / "whole.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[: len(content) * 5 // 8])
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", tmp_path / "cut.gif",
                    tmp_path / "whole.gif", "--output", tmp_path / "o")  # fmt: skip
    assert "1 of 2 image files could not be read: cut.gif" in message
    found = [(image["file_name"], image["frame"]) for image in results(tmp_path / "o")[1]["images"]]
    assert ("cut.gif", 1) in found
    assert found[-4:] == [("whole.gif", frame) for frame in (1, 2, 3, 4)]


@pytest.fixture
def turned(tmp_path):
    """The upright image is 60 wide and 90 high; it is stored lying, with tag 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    photo(60, 90).save(tmp_path / "photos" / "turned.jpg", exif=exif)
    photo(60, 90).save(tmp_path / "photos" / "plain.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("setting", "size", "said"),
    [("auto", (60, 90), "applied"), ("apply", (60, 90), "applied"), ("ignore", (90, 60), "ignored")],
)  # fmt: skip
def test_photographs_are_turned_upright(setting, size, said, detector, turned, tmp_path):
    run(predict_boxes, "--checkpoint", detector, "--images", turned, "--output", tmp_path / "o", "--exif", setting)
    predictions, images = results(tmp_path / "o")
    plain, other = images["images"]
    assert (plain["width"], plain["height"], "exif" in plain) == (90, 60, False)
    assert (other["width"], other["height"], other["exif"]) == (*size, said)
    assert {record.get("exif") for record in predictions if record["file"] == "turned.jpg"} == {said}
    assert {record.get("exif") for record in predictions if record["file"] == "plain.jpg"} == {None}
    boxes = np.array([record["bbox"] for record in predictions if record["file"] == "turned.jpg"])
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array(size) + 0.01).all()
    with Image.open(tmp_path / "o" / "turned.jpg") as picture:
        assert (picture.width > picture.height) == (size == (90, 60))


@pytest.mark.parametrize(("listed", "said"), [((90, 60), "ignored"), ((60, 90), "applied"), ((7, 7), "applied")])
def test_a_coco_file_states_the_frame(listed, said, detector, turned, tmp_path):
    content = {"images": [{"id": 1, "file_name": "turned.jpg", "width": listed[0], "height": listed[1]}]}
    (turned / "list.json").write_text(json.dumps(content))
    run(predict_boxes, "--checkpoint", detector, "--images", turned / "list.json", "--output", tmp_path / "o")
    assert results(tmp_path / "o")[1]["images"][0]["exif"] == said


def test_masks_of_every_image(segmenter, folder, tmp_path, capsys):
    """Palette masks have the sizes of the images, those of equal stems, too."""
    message = fails(capsys, 3, predict_masks, "--checkpoint", segmenter, "--images", folder, "--recursive", "true",
                    "--output", tmp_path / "o")  # fmt: skip
    assert "2 of 5 image files could not be read" in message
    sizes = {"a.jpg.png": (80, 60), "a.png.png": (40, 50), "inner/a.png": (96, 64)}
    for name, size in sizes.items():
        with Image.open(tmp_path / "o" / name) as mask:
            assert mask.size == size
    predictions, _ = results(tmp_path / "o")
    assert {(record["file"], record["image_id"]) for record in predictions} == {
        ("a.jpg", 0), ("a.png", 1), ("inner/a.jpg", 4)
    }  # fmt: skip


def test_results_that_cannot_be_written(detector, folder, tmp_path, capsys):
    (tmp_path / "o" / "a.jpg.jpg").mkdir(parents=True)  # in the place of a picture
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", folder, "--output", tmp_path / "o")
    assert f"error: cannot write the results {tmp_path}/o/a.jpg: Is a directory" in message
    (tmp_path / "file").touch()
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", folder, "--output",
                    tmp_path / "file")  # fmt: skip
    assert "error: cannot create the folder" in message


@pytest.mark.case("R3")
def test_a_full_disk(detector, folder, small_disk, capsys):  # noqa: F811
    disk = small_disk(1)
    fill(disk)
    message = fails(capsys, 3, predict_boxes, "--checkpoint", detector, "--images", folder, "--output", disk)
    assert "error: the disk is full" in message
    assert sorted(path.name for path in disk.iterdir() if path.stat().st_size) == ["filler"]


def test_the_images_are_never_overwritten(detector, folder, capsys):
    before = (folder / "a.jpg").read_bytes()
    message = fails(capsys, 2, predict_boxes, "--checkpoint", detector, "--images", folder, "--output", folder)
    assert "they would be overwritten" in message
    assert (folder / "a.jpg").read_bytes() == before
    assert not (folder / "predictions.json").exists()


def test_an_interrupt_keeps_the_results_so_far(detector, folder, tmp_path, monkeypatch, capsys):
    def predicted(self, sample, call=module.Predictor.__call__):
        if sample.image_id == 1:
            raise KeyboardInterrupt
        return call(self, sample)

    monkeypatch.setattr(module.Predictor, "__call__", predicted)
    message = fails(capsys, 130, predict_boxes, "--checkpoint", detector, "--images", folder, "--output",
                    tmp_path / "o")  # fmt: skip
    assert f"stopped; the results of 1 image is in {tmp_path}/o" in message
    predictions, images = results(tmp_path / "o")
    assert {record["file"] for record in predictions} == {"a.jpg"}
    assert [image["file_name"] for image in images["images"]] == ["a.jpg"]


def test_json_streams(tmp_path):
    with JsonStream(tmp_path / "empty.json"):
        pass
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    with JsonStream(tmp_path / "list.json", "images") as stream:
        stream.more["skipped"] = skipped = []
        stream.write({"a": float("nan"), "b": "红"})
        stream.write({"a": np.float64(0.5)})
        skipped.append("x")
        assert not (tmp_path / "list.json").exists()
    assert json.loads((tmp_path / "list.json").read_text()) == {
        "images": [{"a": None, "b": "红"}, {"a": 0.5}], "skipped": ["x"]
    }  # fmt: skip
    with pytest.raises(TypeError), JsonStream(tmp_path / "list.json") as stream:
        [stream.write(record) for record in ({"a": 1}, {"a": object()})]
    assert json.loads((tmp_path / "list.json").read_text()) == [{"a": 1}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.json", "list.json"]
