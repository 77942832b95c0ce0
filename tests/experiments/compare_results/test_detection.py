"""Compares COCO results of several tools with pycocotools; shuffled, cut, tied and damaged results."""

import csv
import json
import re

import numpy as np
import pytest

from backbones.errors import UserError
from detection.truth import NOT_COUNTED
from experiments.compare_results.__main__ import main
from experiments.compare_results.config import CompareResultsConfig
from experiments.compare_results.detection import compare_detections
from tests.experiments.compare_results.coco_files import (
    TOOLS,
    coco_stats,
    detections_of,
    sorted_by_content,
    truth_of,
    write,
)


@pytest.fixture
def truth(tmp_path):
    content = truth_of()
    write(tmp_path / "truth.json", content)
    return content


def compare(folder, metric="AP", truth="truth.json", settings=None, **files):
    """The comparison of files in `folder`; a name has one file or several."""
    listed = {name: [folder / part for part in value.split(",")] for name, value in files.items()}
    results = [f"{name}={','.join(map(str, paths))}" for name, paths in listed.items()]
    config = CompareResultsConfig("detection", str(folder / truth), results, metric=metric, **settings or {})
    config.check()
    return compare_detections(config, listed, metric)


def run(folder, *arguments):
    """Rows of results.csv by name."""
    main(["--task", "detection", "--truth", str(folder / "truth.json"), "--output", str(folder / "out"), *arguments])
    with (folder / "out/results.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def refused(capsys, folder, *arguments):
    """The exit code and the message of a command that is refused. It writes nothing and has no traceback."""
    with pytest.raises(SystemExit) as stop:
        run(folder, *arguments)
    assert not (folder / "out").exists()
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return stop.value.code, " ".join(message.split())


@pytest.mark.parametrize("tool", TOOLS)
def test_results_of_each_tool_have_the_scores_of_pycocotools(tmp_path, truth, tool):
    detections = detections_of(truth)
    write(tmp_path / "plain.json", detections)
    write(tmp_path / "tool.json", [TOOLS[tool](truth, detection) for detection in detections])
    for position, metric in ((0, "AP"), (1, "AP50"), (4, "APm"), (8, "AR100")):
        found = compare(tmp_path, metric, plain="plain.json", tool="tool.json")
        expected = coco_stats(truth, sorted_by_content(detections))[position]
        assert [side.mean for side in found.sides] == pytest.approx([expected, expected], abs=1e-12)


def test_ultralytics_on_coco_writes_the_ids_of_the_truth(tmp_path):
    truth = truth_of(names="{:012d}.jpg")
    for image in truth["images"]:
        image["file_name"] = f"{image['id']:012d}.jpg"
    write(tmp_path / "truth.json", truth)
    detections = detections_of(truth)
    write(tmp_path / "a.json", detections)
    found = compare(tmp_path, a="a.json", b="a.json")
    assert found.sides[0].mean == pytest.approx(coco_stats(truth, sorted_by_content(detections))[0], abs=1e-12)
    assert not any("file names" in note for note in found.notes)


@pytest.mark.parametrize(
    "name", ["val/img_{:03d}.jpg", "img_{:03d}.jpg", "/data/val/img_{:03d}.jpg", "img_{:03d}", "{}"]
)
def test_image_ids_may_be_paths_names_stems_and_texts(tmp_path, truth, name):
    detections = detections_of(truth)
    offset = 0 if name == "{}" else 4
    write(tmp_path / "a.json", [{**d, "image_id": name.format(d["image_id"] + offset)} for d in detections])
    expected = coco_stats(truth, sorted_by_content(detections))[0]
    assert compare(tmp_path, a="a.json", b="a.json").sides[0].mean == pytest.approx(expected, abs=1e-12)


def test_a_coco_data_set_is_read_without_its_images(tmp_path, truth):
    (tmp_path / "annotations").mkdir()
    write(tmp_path / "annotations/instances_val2017.json", truth)
    write(tmp_path / "annotations/instances_train2017.json", truth_of(images=3))
    detections = detections_of(truth)
    write(tmp_path / "a.json", detections)
    expected = coco_stats(truth, sorted_by_content(detections))[0]
    assert compare(tmp_path, truth="", a="a.json", b="a.json").sides[0].mean == pytest.approx(expected, abs=1e-12)


def test_scores_by_class_are_those_of_pycocotools_for_the_class_alone(tmp_path, truth):
    detections = detections_of(truth)
    write(tmp_path / "a.json", detections)
    scores = compare(tmp_path, a="a.json", b="a.json").sides[0].files[0].by_class
    for category in truth["categories"]:
        alone = {
            **truth,
            "categories": [category],
            "annotations": [a for a in truth["annotations"] if a["category_id"] == category["id"]],
        }
        own = [d for d in sorted_by_content(detections) if d["category_id"] == category["id"]]
        assert scores[category["name"]] == pytest.approx(coco_stats(alone, own)[0], abs=1e-12)


def test_a_shuffled_copy_is_not_distinguishable(tmp_path, truth):
    detections = detections_of(truth, decimals=1)
    write(tmp_path / "a.json", detections)
    np.random.default_rng(5).shuffle(detections)
    write(tmp_path / "b.json", list(detections))
    rows = run(tmp_path, "--results", f"a={tmp_path}/a.json", f"b={tmp_path}/b.json")
    assert rows["b"]["verdict"] == "not distinguishable"
    assert [float(rows["b"][name]) for name in ("difference", "low", "high")] == [0, 0, 0]
    assert rows["a"]["scores"] == rows["b"]["scores"]


def test_ties_are_counted(tmp_path, truth, capsys):
    detections = detections_of(truth, decimals=6)
    write(tmp_path / "a.json", detections)
    copy = [dict(detection) for detection in detections]
    same_class = [d for d in copy if d["category_id"] == 3]
    for detection in same_class[:3]:
        detection["score"] = 0.5
    next(d for d in copy if d["category_id"] == 1)["score"] = 0.5  # of another class
    write(tmp_path / "b.json", copy)
    rows = run(tmp_path, "--results", f"a={tmp_path}/a.json", f"b={tmp_path}/b.json")
    assert [rows[name]["tied_scores"] for name in "ab"] == ["0", "3"]
    assert f"a 0 of {len(copy)}; b 3 of {len(copy)}" in " ".join(capsys.readouterr().out.split())


def test_two_files_of_a_name_are_seeds(tmp_path, truth):
    for seed in range(4):
        write(tmp_path / f"{seed}.json", detections_of(truth, seed, noise=4 if seed < 2 else 12))
    names = [f"{tmp_path}/{seed}.json" for seed in range(4)]
    rows = run(tmp_path, "--results", f"a={names[0]},{names[1]}", f"b={names[2]},{names[3]}", "--baseline", "b")
    scores = [coco_stats(truth, sorted_by_content(detections_of(truth, s, 4 if s < 2 else 12)))[0] for s in range(4)]
    assert float(rows["a"]["mean"]) == pytest.approx(np.mean(scores[:2]), abs=1e-6)
    assert float(rows["a"]["spread"]) == pytest.approx(np.std(scores[:2], ddof=1), abs=1e-6)
    assert rows["a"]["difference"] == f"{np.mean(scores[:2]) - np.mean(scores[2:]):.6f}"
    assert rows["b"]["verdict"] == ""
    assert rows["a"]["seeds"] == "2"


def test_copies_of_a_file_are_no_seeds(tmp_path, truth, capsys):
    detections = detections_of(truth)
    write(tmp_path / "a.json", detections)
    write(tmp_path / "copy.json", detections[::-1])
    write(tmp_path / "b.json", detections_of(truth, 1))
    run(tmp_path, "--results", f"a={tmp_path}/a.json,{tmp_path}/copy.json", f"b={tmp_path}/b.json")
    assert f"a: {tmp_path}/a.json and {tmp_path}/copy.json have the same results" in capsys.readouterr().err
    assert "have the same results" in (tmp_path / "out/report.html").read_text()


def test_images_without_detections_count(tmp_path, truth):
    detections = [d for d in detections_of(truth) if d["image_id"] > 10]
    write(tmp_path / "a.json", detections)
    write(tmp_path / "empty.json", [])
    rows = run(tmp_path, "--results", f"a={tmp_path}/a.json", f"empty={tmp_path}/empty.json")
    expected = coco_stats(truth, sorted_by_content(detections))[0]
    assert float(rows["a"]["mean"]) == pytest.approx(expected, abs=1e-6)
    assert int(rows["a"]["images_without_detections"]) == 40 - len({d["image_id"] for d in detections})
    assert (rows["empty"]["mean"], rows["empty"]["lowest_score"]) == ("0.000000", "-")


def test_results_of_fewer_images_are_named(tmp_path, truth):
    detections = detections_of(truth, decimals=5)
    write(tmp_path / "all.json", detections)
    write(tmp_path / "half.json", [d for d in detections if d["image_id"] > 20])
    found = compare(tmp_path, all="all.json", half="half.json").warnings
    assert any(text.startswith("half has no detections in 2") and "run it on all images" in text for text in found)


def test_results_cut_at_a_score_are_named(tmp_path, truth):
    detections = detections_of(truth, decimals=4)
    write(tmp_path / "all.json", detections)
    write(tmp_path / "cut.json", [d for d in detections if d["score"] >= 0.3])
    found = compare(tmp_path, all="all.json", cut="cut.json")
    below = sum(d["score"] < 0.3 for d in detections)
    assert [text.partition(". ")[0] for text in found.warnings] == [
        f"cut has no detection with a score below 0.3, but all has {below} of {len(detections)}"
    ]
    assert compare(tmp_path, all="all.json", other="all.json").warnings == []
    lowest = found.sides[1].files[0].facts["lowest_score"]
    assert lowest == min(d["score"] for d in detections if d["score"] >= 0.3)


def test_results_cut_at_a_number_of_boxes_are_named(tmp_path, truth):
    detections = [d for seed in range(30) for d in detections_of(truth, seed, decimals=6)]
    write(tmp_path / "all.json", detections)
    kept = []
    for image in range(1, 41):
        own = sorted((d for d in detections if d["image_id"] == image), key=lambda d: -d["score"])
        kept += own[:50]
    write(tmp_path / "cut.json", kept)
    found = compare(tmp_path, all="all.json", cut="cut.json")
    assert [side.files[0].facts["detections_per_image_limit"] for side in found.sides] == [None, 50]
    assert len(found.warnings) == 2  # the limit, not a threshold, is why low scores are missing
    assert found.warnings[0].startswith("cut has exactly 50 detections in ")
    assert "all shows none, cut 50" in found.warnings[1]


def test_a_usual_threshold_is_named_only_if_others_have_lower_scores(tmp_path, truth):
    detections = detections_of(truth, decimals=4)
    write(tmp_path / "a.json", [d for d in detections if d["score"] >= 0.05])
    write(tmp_path / "b.json", [d for d in detections_of(truth, 1, decimals=4) if d["score"] >= 0.05])
    write(tmp_path / "c.json", detections)
    assert compare(tmp_path, a="a.json", b="b.json").warnings == []
    found = compare(tmp_path, a="a.json", c="c.json").warnings
    assert len(found) == 1
    assert found[0].endswith("This alone changes AP: write all results with the same score threshold")


def test_numbers_that_are_ids_and_names_of_other_images_are_refused(tmp_path, capsys):
    truth = truth_of(names="{:04d}.jpg")  # image 1 has the file 0005.jpg
    write(tmp_path / "truth.json", truth)
    detections = [d for d in detections_of(truth) if d["image_id"] > 4]
    write(tmp_path / "a.json", detections)
    files = [f"a={tmp_path}/a.json", f"b={tmp_path}/a.json"]
    code, message = refused(capsys, tmp_path, "--results", *files)
    assert code == 3
    assert "--image_ids ids or --image_ids names" in message
    by_id = compare(tmp_path, a="a.json", b="a.json", settings={"image_ids": ["ids"]}).sides[0].mean
    assert by_id == pytest.approx(coco_stats(truth, sorted_by_content(detections))[0], abs=1e-12)
    both = compare(tmp_path, a="a.json", b="a.json", settings={"image_ids": ["ids", "b=names"]}).sides
    assert both[1].mean < both[0].mean
    write(tmp_path / "a.json", detections_of(truth))  # ids 1 to 4 are no names
    assert compare(tmp_path, a="a.json", b="a.json").sides[0].mean > by_id


def test_categories_that_can_be_ids_and_positions_are_refused(tmp_path, capsys):
    truth = truth_of(categories=(1, 2, 3))
    write(tmp_path / "truth.json", truth)
    detections = [d for d in detections_of(truth) if d["category_id"] < 3]
    write(tmp_path / "a.json", detections)
    files = [f"a={tmp_path}/a.json", f"b={tmp_path}/a.json"]
    code, message = refused(capsys, tmp_path, "--results", *files)
    assert code == 3
    assert "--category_ids ids or --category_ids from0: " in message
    assert int(re.search(r"(\d+)% of the boxes on objects have their class if these are ids", message)[1]) > 60
    assert int(re.search(r"(\d+)% of the boxes on objects have their class if these are pos", message)[1]) < 30
    rows = run(tmp_path, "--results", *files, "--category_ids", "ids", "b=from0")
    expected = coco_stats(truth, sorted_by_content(detections))[0]
    assert float(rows["a"]["mean"]) == pytest.approx(expected, abs=1e-6)
    shifted = [{**d, "category_id": d["category_id"] + 1} for d in detections]
    expected = coco_stats(truth, sorted_by_content(shifted))[0]
    assert float(rows["b"]["mean"]) == pytest.approx(expected, abs=1e-6)


BAD = {
    "unknown image": ({"image_id": 99}, "which is not in the truth: 1 of"),
    "unknown name": ({"image_id": "other.jpg"}, "has image_id 'other.jpg', which is not in the truth"),
    "image of a wrong type": ({"image_id": [1]}, "has image_id [1], which is neither"),
    "unknown category": ({"category_id": 8}, "has category_id 8"),
    "category of a wrong type": ({"category_id": "cat"}, "has category_id 'cat', not a whole number"),
    "NaN in a box": ({"bbox": [1, 2, float("nan"), 4]}, "not four finite numbers"),
    "a huge box": ({"bbox": [1, 2, 1e300, 4]}, "has bbox [1, 2, 1e+300, 4], beyond any image"),
    "three numbers": ({"bbox": [1, 2, 3]}, "has bbox [1, 2, 3], not four finite numbers"),
    "box of a wrong type": ({"bbox": "1 2 3 4"}, "not four finite numbers"),
    "negative width": ({"bbox": [50, 50, -3, 4]}, "with a negative width or height"),
    "NaN score": ({"score": float("nan")}, "has score nan, not a finite number"),
    "score of a wrong type": ({"score": "high"}, "has score 'high', not a finite number"),
    "missing score": ({"score": None}, "has score None, not a finite number"),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_damaged_detection_is_one_message(tmp_path, truth, capsys, damage):
    change, message = BAD[damage]
    detections = detections_of(truth)
    write(tmp_path / "good.json", detections)
    detections[7] = {**detections[7], **change}
    write(tmp_path / "bad.json", detections)
    code, found = refused(capsys, tmp_path, "--results", f"a={tmp_path}/good.json", f"b={tmp_path}/bad.json")
    assert code == 3
    assert f"{tmp_path}/bad.json: detection 7 {message}"[:80] in found or message in found
    assert "bad.json: detection 7" in found


CONTENTS = {
    "no JSON": ("[{", "is not valid JSON"),
    "no list": ('{"a": 1}', "is a JSON dict, not a list of detections"),
    "a truth": (json.dumps(truth_of()), "is a COCO file of objects, not of detections"),
    "list of numbers": ("[1, 2]", "detection 0 is 1, not an object"),
    "no boxes": ('[{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {}}]', "detection 0 has no bbox"),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_another_file_is_one_message(tmp_path, truth, capsys, content):
    text, message = CONTENTS[content]
    write(tmp_path / "good.json", detections_of(truth))
    (tmp_path / "bad.json").write_text(text)
    code, found = refused(capsys, tmp_path, "--results", f"a={tmp_path}/good.json", f"b={tmp_path}/bad.json")
    assert code == 3
    assert message in found


JUNK = (
    *(None, True, 0, -1, 1, 2**53 + 2, 2**64, 10**30, 1.5, 1e308, float("nan"), float("inf"), "", "1", "x", "img_005"),
    *("..", "/", "a" * 300, "9" * 5000, [], [1], [1, 2, 3, 4], ["1", 2, 3, 4], [[1]], {}, [None] * 4, [1e308] * 4),
)


def test_random_damage_is_read_or_one_message(tmp_path, truth):
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        detections = detections_of(truth)[:6]
        for _ in range(random.integers(1, 3)):
            key = random.choice(["image_id", "category_id", "bbox", "score", "file_name"])
            detections[random.integers(6)][key] = JUNK[random.integers(len(JUNK))]
        text = json.dumps(detections)
        cut = len(text) if random.random() < 0.9 else int(random.integers(len(text)))
        (tmp_path / "a.json").write_text(text[:cut])
        try:
            compare(tmp_path, a="a.json", b="a.json")
        except UserError as error:
            outcomes.add("a.json" in str(error))
        else:
            outcomes.add("read")
    assert outcomes == {"read", True}  # each message names the file


def test_a_truth_of_another_task_is_one_message(tmp_path, truth, capsys):
    for name in ("train/cat/1.jpg", "train/dog/2.jpg"):
        (tmp_path / "classes" / name).parent.mkdir(parents=True)
        (tmp_path / "classes" / name).write_bytes(b"")
    files = ["--results", f"a={tmp_path}/a.json", f"b={tmp_path}/a.json"]
    code, found = refused(capsys, tmp_path, *files, "--truth", str(tmp_path / "classes"))
    assert code == 3
    assert "Pass a data set for object detection as --truth" in found
    code, found = refused(capsys, tmp_path, *files, "--truth", str(tmp_path / "missing.json"))
    assert code == 3
    assert "there is no truth at" in found


def test_a_folder_in_place_of_a_file_is_one_message(tmp_path, truth, capsys):
    (tmp_path / "run").mkdir()
    write(tmp_path / "good.json", detections_of(truth))
    code, found = refused(capsys, tmp_path, "--results", f"a={tmp_path}/good.json", f"b={tmp_path}/run")
    assert code == 3
    assert "run is a folder: pass a JSON file of detections" in found


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--results missing"),
        (["--results", "a=x.json"], 2, "at least two names"),
        (["--results", "a=x.json", "a=y.json"], 2, "has the name a twice"),
        (["--results", "x.json", "y.json"], 2, "expected NAME=FILE"),
        (["--results", "a=x.json,x.json", "b=y.json"], 2, "a file is given twice"),
        (["--results", "a=x.json", "b=y.json", "--baseline", "c"], 2, "--baseline c is not among"),
        (["--results", "a=x.json", "b=y.json", "--metric", "mIoU"], 2, "--metric mIoU"),
        (["--results", "a=x.json", "b=y.json", "--image_ids", "c=ids"], 2, "'c' is not among --results"),
        (["--results", "a=x.json", "b=y.json", "--category_ids", "from2"], 2, "there are ids, from0, from1"),
        (["--results", "a=x.json", "b=y.json", "--pixels", "indices"], 2, "--pixels is for segmentation"),
        (["--results", "a=x.json", "b=y.json", "--data.val", "val"], 2, "name the truth with --truth and --data.split"),
        (["--results", "a=x.json", "b=y.json"], 3, "cannot read x.json"),
    ],
)
def test_wrong_arguments_are_one_message(tmp_path, truth, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    found = refused(capsys, tmp_path, *arguments)
    assert found[0] == code
    assert message in found[1]


def test_names_are_escaped_in_the_report(tmp_path, truth):
    truth["categories"][0]["name"] = "<script>alert(1)</script> | x"
    write(tmp_path / "truth.json", truth)
    write(tmp_path / "a.json", detections_of(truth))
    write(tmp_path / "b.json", detections_of(truth, 1))
    run(tmp_path, "--results", f"<b>a={tmp_path}/a.json", f"b[1]={tmp_path}/b.json")
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>a" not in page
    assert "&lt;script&gt;alert" in page
    assert "<svg" in page
    table = (tmp_path / "out/results.md").read_text()
    assert "| &lt;script>alert(1)&lt;/script> \\| x |" in table
    assert "| b[1] |" in table


def test_objects_beyond_the_size_ranges_are_not_counted(tmp_path, truth):
    """As in `truth.json` of a run on Pascal VOC's difficult objects."""
    for annotation in truth["annotations"][::3]:
        annotation["area"] = NOT_COUNTED
    write(tmp_path / "truth.json", truth)
    detections = detections_of(truth)
    write(tmp_path / "a.json", detections)
    expected = coco_stats(truth, sorted_by_content(detections))[0]
    assert compare(tmp_path, a="a.json", b="a.json").sides[0].mean == pytest.approx(expected, abs=1e-12)


def test_degenerate_boxes_of_the_truth_are_not_scored(tmp_path, truth):
    detections = detections_of(truth)
    write(tmp_path / "a.json", detections)
    before = compare(tmp_path, a="a.json", b="a.json").sides[0].mean
    extra = {"iscrowd": 0, "category_id": 1, "image_id": 3}
    truth["annotations"] += [
        {"id": 900, "bbox": [5, 5, 0, 9], "area": 0, **extra},
        {"id": 901, "bbox": [500, 5, 20, 20], "area": 400, **extra},
    ]
    write(tmp_path / "truth.json", truth)
    assert compare(tmp_path, a="a.json", b="a.json").sides[0].mean == before
