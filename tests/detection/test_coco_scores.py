"""Precision and recall of both scorers against pycocotools, on sets as the evaluator passes them."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError
from detection.coco_scores import SCORER_VARIABLE, SCORERS, CocoScores
from detection.evaluator import CocoEvaluator
from tests.benchmarks.coco_files import Case, as_passed
from tests.detection.columns import box_columns


def expected(case: Case) -> tuple[np.ndarray, np.ndarray]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = case.truth
        truth.createIndex()
        rows = [
            row | {"id": i, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for i, row in enumerate(case.found, start=1)
        ]
        found.dataset = case.truth | {"annotations": rows}
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.maxDets = case.limits
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def rows_of(case: Case) -> np.ndarray:
    rows = [[row["image_id"], *row["bbox"], row["score"], row["category_id"]] for row in case.found]
    return np.array(rows, np.float64).reshape(-1, 7)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("start", range(0, 200, 20))
def test_arrays_equal_those_of_pycocotools(scorer, start):
    for seed in range(start, start + 20):
        case = as_passed(np.random.default_rng(seed))
        ours = CocoScores(case.truth, scorer).arrays(rows_of(case), case.limits)
        for values, official in zip(ours, expected(case), strict=True):
            np.testing.assert_allclose(values, official, rtol=0, atol=1e-12)


def test_scores_are_used_again(monkeypatch):
    """One object scores several sets of detections: the first has no influence on the second."""
    case = as_passed(np.random.default_rng(1))
    assert len(case.found) > 3
    for scorer in SCORERS:
        scores = CocoScores(case.truth, scorer)
        first = scores.arrays(rows_of(case), [1, 100])
        scores.arrays(rows_of(case)[:2], [1, 100])
        for values, again in zip(first, scores.arrays(rows_of(case), [1, 100]), strict=True):
            np.testing.assert_array_equal(values, again)


def test_the_environment_names_the_scorer(monkeypatch):
    truth = box_columns(images=1, classes=1, image=[0], label=[0], boxes=[[0, 0, 20, 20]])
    document = {"images": [], "categories": [], "annotations": []}
    monkeypatch.delenv(SCORER_VARIABLE, raising=False)
    assert CocoScores(document).scorer == "hotcoco"
    monkeypatch.setenv(SCORER_VARIABLE, "faster-coco-eval")
    assert CocoScores(document).scorer == "faster-coco-eval"
    evaluator = CocoEvaluator(truth)
    monkeypatch.setenv(SCORER_VARIABLE, "cocoeval")
    with pytest.raises(UserError, match=r"'cocoeval' \(BACKBONE_SWAP_SCORER\) is none of hotcoco, faster-coco-eval"):
        CocoEvaluator(truth)  # before any score is computed
    evaluator.compute()
    assert evaluator._scores.scorer == "faster-coco-eval"
