"""Matches of all detections against pycocotools, with ties, crowds, equal boxes and areas that contradict boxes."""

import contextlib
import io
import json
from dataclasses import fields

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import detection.greedy as greedy
from detection.greedy import box_iou
from detection.run_matches import AREAS, FILE, IOUS, RunMatches, match_documents, matches_digest, stored_matches

CATEGORIES = (2, 5, 90)


def documents(seed: int) -> tuple[dict, list[dict]]:
    """Boxes on a coarse grid, so that many IoUs are equal, and scores of few values."""
    random = np.random.default_rng(seed)
    ids = sorted(random.choice(10**12, random.integers(1, 8), replace=False).tolist())
    annotations = []
    for _ in range(random.integers(0, 40)):
        width, height = random.choice([0, 8, 16, 30, 40, 96, 120], 2).tolist()
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": random.choice(ids).item(),
                "category_id": random.choice([*CATEGORIES[:2], 7], p=[0.5, 0.4, 0.1]).item(),
                "bbox": [*(random.integers(0, 6, 2) * 8).tolist(), width, height],
                "area": [width * height, 0, 5000, 2e10][random.choice(4, p=[0.7, 0.1, 0.1, 0.1])],
                "iscrowd": int(random.random() < 0.15),
            }
        )
    found = []
    for _ in range(random.integers(0, 120)):
        near = annotations[random.integers(len(annotations))] if annotations and random.random() < 0.7 else None
        box = near["bbox"] if near else [*(random.integers(0, 6, 2) * 8).tolist(), 40, 40]
        found.append(
            {
                "image_id": near["image_id"] if near else random.choice(ids).item(),
                "category_id": near["category_id"] if near else random.choice([*CATEGORIES, 8]).item(),
                "bbox": [value + random.choice([0, 0, 0, 4, 8]).item() for value in box],
                "score": random.integers(0, 8).item() / 8,
            }
        )
    truth = {
        "images": [{"id": i, "width": 200, "height": 200} for i in ids],
        "categories": [{"id": i, "name": str(i)} for i in CATEGORIES],
        "annotations": annotations,
    }
    return truth, found


def official(truth: dict, found: list[dict], limit: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes([dict(each) for each in found]) if found else COCO(), "bbox")
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
    return evaluation


@pytest.mark.parametrize("seed", range(150))
def test_matches_equal_those_of_pycocotools(seed, monkeypatch):
    limit = [100, 3][seed % 2]
    if seed % 3 == 0:
        monkeypatch.setattr(greedy, "PAIRS", 5)  # in many pieces
    truth, found = documents(seed)
    ours = match_documents(truth, found, limit)
    images = len(truth["images"])
    assert (ours.image_ids == official_ids(truth)).all()
    for position, expected in enumerate(official(truth, found, limit).evalImgs):
        label, area, image = np.unravel_index(position, (len(CATEGORIES), len(AREAS), images))
        rows = np.flatnonzero((ours.label == label) & (ours.image == image))
        pair = (ours.object_label == label) & (ours.object_image == image)
        if expected is None:
            assert not len(rows)
            assert not pair.any()
            continue
        assert ours.score[rows].tolist() == expected["dtScores"]
        assert ours.rank[rows].tolist() == list(range(len(rows)))
        matched, ignored = np.zeros((2, len(IOUS), len(rows)), bool)
        for column, row in enumerate(rows):
            (index,) = np.nonzero(ours.rows == row)
            matched[:, column] = ours.matched[index, area].any(0)
            ignored[:, column] = ours.ignored[index, area].any(0)
        ignored |= ~matched & ours.outside[area, rows]
        np.testing.assert_array_equal(matched, expected["dtMatches"] > 0)
        np.testing.assert_array_equal(ignored, expected["dtIgnore"].astype(bool))
        assert ours.objects[area, pair].sum() == np.count_nonzero(np.asarray(expected["gtIgnore"]) == 0)


def official_ids(truth: dict) -> list[int]:
    return sorted(image["id"] for image in truth["images"])


def test_the_sets_contain_matches_ignored_ones_and_ties():
    counts = np.zeros(3, int)
    for seed in range(20):
        truth, found = documents(seed)
        ours = match_documents(truth, found, 100)
        counts += ours.matched.sum(), ours.ignored.sum(), len(ours.score) - len(np.unique(ours.score))
    assert (counts > [1000, 300, 300]).all(), counts


def test_the_iou_is_that_of_pycocotools():
    from pycocotools import mask

    random = np.random.default_rng(0)
    boxes, objects = random.uniform(0, 100, (200, 4)), random.uniform(0, 100, (200, 4))
    crowd = random.random(200) < 0.3
    expected = [mask.iou(a[None], b[None], [int(c)])[0, 0] for a, b, c in zip(boxes, objects, crowd, strict=True)]
    np.testing.assert_allclose(box_iou(boxes, objects, crowd), expected, rtol=1e-15, atol=0)


def test_detections_of_an_unknown_image_are_an_error():
    truth, _ = documents(0)
    with pytest.raises(ValueError, match="contain the image 77,"):
        match_documents(truth, [{"image_id": 77, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}], 100)


def test_stored_matches_are_used_for_the_same_contents_only(tmp_path):
    truth, found = documents(1)
    calls = []

    def compute():
        calls.append(1)
        return match_documents(truth, found, 100)

    def stored(limit=100, end=b""):
        return stored_matches(tmp_path, matches_digest(json.dumps(truth).encode(), b"[]" + end, limit), compute)

    first, second = stored(), stored()
    assert len(calls) == 1
    for field in fields(RunMatches):
        a, b = getattr(first, field.name), getattr(second, field.name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    stored(end=b" ")
    stored(limit=50)
    assert len(calls) == 3


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"])
def test_damaged_stored_matches_are_computed_again(tmp_path, content):
    truth, found = documents(2)
    (tmp_path / FILE).write_bytes(content)
    first = stored_matches(tmp_path, "a", lambda: match_documents(truth, found, 100))
    again = stored_matches(tmp_path, "a", lambda: pytest.fail("the file is not used"))
    np.testing.assert_array_equal(first.score, again.score)


def test_cut_stored_matches_are_computed_again(tmp_path):
    truth, found = documents(2)
    stored_matches(tmp_path, "a", lambda: match_documents(truth, found, 100))
    content = (tmp_path / FILE).read_bytes()
    for end in range(0, len(content), 97):
        (tmp_path / FILE).write_bytes(content[:end])
        assert len(stored_matches(tmp_path, "a", lambda: match_documents(truth, found, 100)).score)


def test_a_folder_that_cannot_be_written_to_is_harmless(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    truth, found = documents(3)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert len(stored_matches(tmp_path, "a", lambda: match_documents(truth, found, 100)).label)
    assert not list(tmp_path.iterdir())
