"""Every layout of boxes, with random and with damaged content: what is accepted is scored as it is annotated.

A perfect detector reports exactly the boxes of the data set, so its AP is 1. What is refused is refused with a message
before anything is trained.
"""

import json
import math
import random
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from backbones.errors import UserError
from data.batch import collate
from data.box_dataset import BoxDataset
from data.convert.runner import convert
from detection.evaluator import CocoEvaluator
from detection.postprocess import Detections
from tests.data.formats.sets import objects, read
from tests.data.formats.writers import WRITERS, Scene, write
from tests.reliability.test_fuzz import damaged, mutated, succeeds

pytestmark = pytest.mark.case("boxes")
LAYOUTS = sorted(WRITERS)
NAMES = ["cat", "traffic light", "猫", "Straße", "3", "a-b", "x" * 40, "O'Neil", "no", "naïve name"]
# Values in label files that a person or a tool could write, in place of a number or a name.
ODD = ["nan", "NaN", "inf", "-inf", "1e400", "-5", "0", "1e-30", "99999", "1e12", "", " ", "abc", "12,5", "0x10",
       "None", "null", "-0.0", "1_0", "½", "../../x", "[]", "true", "10**3"]  # fmt: skip


def random_scenes(draw):
    """One to three small images with up to five boxes each; some boxes have no area or leave the image."""
    classes = draw.sample(NAMES, draw.randint(1, 4))
    scenes = []
    for number in range(draw.randint(1, 3)):
        height, width = draw.choice([(20, 40), (32, 32), (17, 23)])
        scene = Scene(
            f"{draw.choice(['a', 'img 1', '照片', 'x.y'])}_{number}.{draw.choice(['png', 'PNG'])}", height, width
        )
        for _ in range(draw.choice([0, 1, 2, 5])):
            x, y = draw.uniform(-3, width - 1), draw.uniform(-3, height - 1)
            w, h = draw.uniform(0.5, width / 2), draw.uniform(0.5, height / 2)
            if draw.random() < 0.1:
                w = 0.0
            if draw.random() < 0.3:
                x, y, w, h = (float(round(value)) for value in (x, y, w, h))
            scene.objects.append((draw.choice(classes), x, y, x + w, y + h))
        scenes.append(scene)
    if not any(scene.objects for scene in scenes):
        scenes[0].objects.append((classes[0], 1.0, 2.0, 9.0, 11.5))
    return scenes, classes


def perfect_score(data):
    """AP of a detector that reports the boxes of the data set, and whether there is an object to score."""
    columns = data.columns
    evaluator = CocoEvaluator(columns)
    for index in range(len(data)):
        own = (columns.image == index) & ~columns.crowd
        boxes = torch.from_numpy(columns.boxes[own])[None]
        labels = torch.from_numpy(columns.label[own])[None]
        evaluator.update(Detections(boxes, torch.ones(labels.shape), labels), collate([data[index]]))
    sides = columns.boxes[:, 2:] - columns.boxes[:, :2]
    counted = ~columns.crowd & ~columns.difficult & (sides.prod(1) <= 1e10)  # COCO's largest area
    return evaluator.compute()["AP"], bool(counted.any())


def check_perfect(root):
    data = BoxDataset.open(root, "train")
    score, has_objects = perfect_score(data)
    assert score == pytest.approx(1.0, abs=1e-9) if has_objects else math.isnan(score)
    return data


def test_what_is_written_is_read_and_scored(tmp_path, amount, measured):
    """The boxes are the written ones to 1e-6 px, and the perfect score is 1."""
    draw, cases = random.Random(0), amount(60, 1000)
    for number in range(cases):
        root, layout = tmp_path / "set", LAYOUTS[number % len(LAYOUTS)]
        scenes, classes = random_scenes(draw)
        write(layout, root, scenes, classes)
        found = objects(read(root))
        assert {name.rpartition("/")[2] for name in found} == {scene.name for scene in scenes}, layout
        for scene in scenes:
            own = found[next(name for name in found if name.endswith(scene.name))]
            assert [one[0] for one in own] == [one[0] for one in scene.objects], layout
            written = np.array([one[1:] for one in scene.objects]).reshape(-1, 4)
            np.testing.assert_allclose(np.array([one[1:] for one in own]).reshape(-1, 4), written, atol=2e-6, rtol=0)
        check_perfect(root)
        shutil.rmtree(root)
    measured(f"{cases} sets in {len(LAYOUTS)} layouts: all read as written, AP 1.0")


def spoiled(content, draw):
    """The text with one to three of its numbers, words or lines replaced, removed or repeated."""
    for _ in range(draw.randint(1, 3)):
        if draw.random() < 0.7:
            spans = [match.span() for match in re.finditer(r"[-+\w.]+", content)]
            if spans:
                start, end = draw.choice(spans)
                content = content[:start] + draw.choice(ODD) + content[end:]
        else:
            lines = content.splitlines(keepends=True)
            if lines:
                at = draw.randrange(len(lines))
                lines[at : at + 1] = draw.choice([[], [lines[at]] * 2, [lines[at].rstrip("\n")]])
                content = "".join(lines)
    return content


@pytest.mark.case("fuzz")
def test_damaged_label_files(tmp_path, amount, measured):
    """Each is read, and then scored 1 by the perfect detector, or is refused with one message."""
    draw, cases, worked = random.Random(1), amount(90, 2000), 0
    for number in range(cases):
        root, layout = tmp_path / "set", LAYOUTS[number % len(LAYOUTS)]
        files = write(layout, root, *random_scenes(draw))
        file = draw.choice(files)
        if draw.random() < 0.7:
            file.write_text(spoiled(file.read_text("utf-8"), draw), "utf-8")
        else:
            file.write_bytes(damaged(file.read_bytes(), draw))
        worked += succeeds(partial(check_perfect, root), UserError)
        shutil.rmtree(root)
    assert 0 < worked < cases
    measured(f"{cases} damaged sets in {len(LAYOUTS)} layouts: {worked} read, AP 1.0; {cases - worked} refused")


@pytest.mark.case("fuzz")
def test_documents_with_odd_values(tmp_path, amount, measured):
    """JSON layouts with values of every type in every place."""
    draw, cases, worked = random.Random(2), amount(60, 1500), 0
    layouts = ["coco", "roboflow", "labelme", "via", "label studio"]
    for number in range(cases):
        root = tmp_path / "set"
        file = draw.choice(write(layouts[number % len(layouts)], root, *random_scenes(draw)))
        file.write_text(json.dumps(mutated(json.loads(file.read_text("utf-8")), draw)), "utf-8")
        worked += succeeds(partial(check_perfect, root), UserError)
        shutil.rmtree(root)
    assert 0 < worked < cases
    measured(f"{cases} JSON files with odd values: {worked} read, AP 1.0; {cases - worked} refused")


def by_name(columns):
    """Image without its folder -> classes and (N, 4) boxes of its objects."""
    found = {}
    for index, name in enumerate(columns.names):
        own = columns.image == index
        found[name.rpartition("/")[2]] = [columns.classes[i] for i in columns.label[own]], columns.boxes[own]
    return found


def test_conversion_there_and_back(tmp_path, amount, measured):
    """Any layout to another and on to COCO: the boxes of images and their classes stay, to 1e-6 px."""
    draw, cases = random.Random(3), amount(20, 300)
    for number in range(cases):
        root, layout = tmp_path / "set", LAYOUTS[number % len(LAYOUTS)]
        scenes, classes = random_scenes(draw)
        for scene in scenes:  # YOLO's and COCO's tools refuse boxes beyond the image
            limits = [scene.width, scene.height] * 2
            scene.objects = [
                (one[0], *(float(np.clip(v, 0, most)) for v, most in zip(one[1:], limits, strict=True)))
                for one in scene.objects
            ]
        write(layout, root, scenes, classes)
        between = draw.choice(["coco", "yolo", "voc"])
        report = convert(str(root), between, tmp_path / "between")
        assert not any("boxes" in what or "objects" in what for what in report.lost), report.lost
        convert(str(tmp_path / "between"), "coco", tmp_path / "coco")
        before, after = by_name(read(root)), by_name(read(tmp_path / "coco"))
        assert before.keys() == after.keys(), (layout, between)
        for name, (labels, boxes) in before.items():
            assert after[name][0] == labels
            np.testing.assert_allclose(after[name][1], boxes, rtol=0, atol=1e-6)
        for folder in ("set", "between", "coco"):
            shutil.rmtree(tmp_path / folder)
    measured(f"{cases} conversions from {len(LAYOUTS)} layouts and back: boxes within 1e-6 px")
