"""Tests the bootstrap: scores of resamples against pycocotools and numpy on repeated images, and its error rates."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import BadInput, UserError
from classification.evaluator import AccuracyEvaluator
from classification.results import classification_results
from classification.spec import SPEC as CLASSIFICATION
from data.batch import IGNORE, collate
from detection.config import COCO_METRICS
from detection.matching import match_classes, operating_point
from detection.results import match_detections
from detection.truth import coco_document
from engine.schema import SCHEMA
from experiments.report.statistics import Difference, ImageResults, bootstrap, read_images
from segmentation.config import METRICS as SEGMENTATION_METRICS
from segmentation.evaluator import COLUMNS, SegmentationEvaluator
from segmentation.results import segmentation_results
from tests.classification.test_evaluator import batch_of
from tests.detection.test_matching import data
from tests.segmentation.test_evaluator import sample

IMAGES = 12


def coco_truth(random: np.random.Generator) -> dict:
    """Images with up to five boxes of three classes, some of them crowds, and one image without boxes."""
    annotations = []
    for image in range(1, IMAGES):
        for _ in range(random.integers(1, 6)):
            x, y, w, h = random.uniform([0, 0, 20, 20], [200, 200, 100, 100])
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(random.choice([1, 3, 7])),
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(random.random() < 0.1)}
            )  # fmt: skip
    return {
        "images": [{"id": i, "width": 300, "height": 300, "file_name": f"{i}.jpg"} for i in range(IMAGES)],
        "categories": [{"id": i, "name": str(i)} for i in (1, 3, 7)],
        "annotations": annotations,
    }


def detections_of(truth: dict, random: np.random.Generator, noise: float = 8.0) -> list[dict]:
    """The true boxes with noise: some are missing, some have the wrong class, some are detected twice."""
    found = []
    for annotation in truth["annotations"]:
        for _ in range(random.integers(0, 3)):
            category = annotation["category_id"] if random.random() < 0.8 else 3
            box = (np.array(annotation["bbox"]) + random.normal(0, noise, 4)).clip(1).tolist()
            found.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box,
                          "score": float(random.random())})  # fmt: skip
    return found


def repeated(truth: dict, found: list[dict], counts: np.ndarray) -> tuple[dict, list[dict]]:
    """The data set in which image n occurs `counts[n]` times, with different ids."""
    images, annotations, detections = [], [], []
    for image, count in zip(truth["images"], counts, strict=True):
        for copy in range(count):
            new = image["id"] * 100 + copy
            images.append(image | {"id": new})
            annotations += [a | {"image_id": new} for a in truth["annotations"] if a["image_id"] == image["id"]]
            detections += [d | {"image_id": new} for d in found if d["image_id"] == image["id"]]
    annotations = [a | {"id": i + 1} for i, a in enumerate(annotations)]
    return truth | {"images": images, "annotations": annotations}, detections


def reference(truth: dict, found: list[dict], metric: str = "AP") -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    value = evaluation.stats[COCO_METRICS.index(metric)]
    return value if value >= 0 else np.nan


@pytest.mark.parametrize("metric", COCO_METRICS[1:])
def test_each_metric_of_a_resample_equals_that_of_repeated_images(metric):
    random = np.random.default_rng(5)
    truth = coco_truth(random)
    for annotation in truth["annotations"][::3]:  # small and large objects as well
        scale = random.choice([0.3, 3.0])
        x, y, w, h = annotation["bbox"]
        annotation |= {"bbox": [x, y, w * scale, h * scale], "area": w * h * scale**2}
    found = detections_of(truth, random, 4.0)
    counts = np.stack([np.ones(IMAGES, int), *random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 3)])
    expected = [reference(*repeated(truth, found, row), metric) for row in counts]
    np.testing.assert_allclose(match_detections(truth, found, metric).score(counts), expected, atol=1e-9)
    assert 0.02 < expected[0] < 0.98


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_and_f1_of_a_resample(seed):
    """All images once have the scores of the evaluator. In resamples the score threshold stays that of all images."""
    truth, rows = data(seed)
    document = coco_document(truth, truth.image_ids, list(truth.category_ids))
    found = [
        {"image_id": int(row[0]) + 1, "category_id": int(row[6]) + 1, "bbox": row[1:5].tolist(), "score": float(row[5])}
        for row in rows
    ]
    point = operating_point(match_classes(truth, rows, 100))
    counts = np.stack([np.ones(10, int), *np.random.default_rng(seed).multinomial(10, np.full(10, 0.1), 4)])
    for metric, by_class in (("precision", point.precision), ("recall", point.recall), ("F1", point.f1)):
        scores = match_detections(document, found, metric).score(counts)
        assert scores[0] == pytest.approx(by_class.mean(), abs=1e-12)
        for row, score in zip(counts, scores, strict=True):
            values = []
            for label in range(len(truth.classes)):
                right = detected = objects = 0
                for image in np.repeat(np.arange(10), row):
                    own = rows[(rows[:, 0] == image) & (rows[:, 5] >= point.threshold)]
                    matches = match_classes(truth.select(np.array([image])), own * [0, 1, 1, 1, 1, 1, 1], 100)[label]
                    right, detected = right + matches.correct.sum(), detected + len(matches.correct)
                    objects += matches.objects
                shares = {
                    "precision": (right, detected),
                    "recall": (right, objects),
                    "F1": (2 * right, detected + objects),
                }
                if objects:
                    values.append(np.divide(*shares[metric]) if detected else 0.0)
            assert score == pytest.approx(np.mean(values), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ap_of_a_resample_equals_ap_of_repeated_images(tmp_path, seed):
    random = np.random.default_rng(seed)
    truth = coco_truth(random)
    found = detections_of(truth, random)
    results = match_detections(truth, found)
    counts = np.stack([np.ones(IMAGES, int), *random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 6)])
    expected = [reference(*repeated(truth, found, row)) for row in counts]
    np.testing.assert_allclose(results.score(counts), expected, atol=1e-9)
    assert 0.05 < expected[0] < 0.95


def test_ap_without_detections_is_zero(tmp_path):
    assert match_detections(coco_truth(np.random.default_rng(0)), []).score(np.ones((2, IMAGES), int)).tolist() == [
        0,
        0,
    ]


def test_miou_of_a_resample_equals_miou_of_repeated_images(tmp_path):
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (IMAGES, 20, 30)).astype(np.uint8)
    truth[:, :3] = IGNORE
    predicted = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, 5, truth.shape)).clip(0, 4)
    evaluator = SegmentationEvaluator("abcde")
    for i in range(IMAGES):
        evaluator.update([torch.from_numpy(predicted[i]).long()], collate([sample(10 * i, truth[i])]))
    evaluator.write_images(tmp_path / "images.npy")
    evaluator.write_images(tmp_path / "again.npy")
    assert np.load(tmp_path / "images.npy").shape[1] == len(COLUMNS)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), np.load(tmp_path / "again.npy"))

    results = segmentation_results(tmp_path / "images.npy")
    assert results.keys == tuple(str(key) for key in sorted(10 * i for i in range(IMAGES)))
    counts = np.stack([np.ones(IMAGES, int), *random.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 5)])
    for row, score in zip(counts, results.score(counts), strict=True):
        t, p = np.repeat(truth, row, axis=0), np.repeat(predicted, row, axis=0)
        labelled = t != IGNORE
        pairs = [((t == c) & labelled, (p == c) & labelled) for c in range(5)]
        expected = np.nanmean([(a & b).sum() / (a | b).sum() if (a | b).any() else np.nan for a, b in pairs])
        assert score == pytest.approx(expected, abs=1e-12)
    scores = evaluator.compute()
    assert set(scores) == set(SEGMENTATION_METRICS)
    for metric, value in scores.items():
        resampled = segmentation_results(tmp_path / "images.npy", metric).score(counts)
        assert resampled[0] == pytest.approx(value, abs=1e-12)
        assert len(set(resampled.tolist())) > 1


def test_top1_of_a_resample(tmp_path):
    (tmp_path / "images.csv").write_text("file,class,predicted,probability,correct\na/1,a,a,1,1\nb/1,b,a,1,0\n")
    results = classification_results(tmp_path / "images.csv")
    assert results.score(np.array([[1, 1], [2, 0], [3, 1]])).tolist() == [0.5, 1.0, 0.75]


def test_each_metric_of_a_resample_of_classified_images(tmp_path):
    """Against the evaluator's scores of repeated images. Class d occurs only in predictions."""
    random = np.random.default_rng(0)
    names = "abcd"
    labels, predicted = random.integers(0, 3, 40), random.integers(0, 4, 40)
    predicted = np.where(random.random(40) < 0.5, labels, predicted)
    rows = [f"{i}.jpg,{names[t]},{names[p]},0.5,{int(t == p)}" for i, (t, p) in enumerate(zip(labels, predicted))]  # noqa: B905
    (tmp_path / "images.csv").write_text("\n".join(["file,class,predicted,probability,correct", *rows]) + "\n")
    counts = np.stack([np.ones(40, int), *random.multinomial(40, np.full(40, 1 / 40), 4)])
    for metric in CLASSIFICATION.image_metrics:
        scores = classification_results(tmp_path / "images.csv", metric).score(counts)
        for row, score in zip(counts, scores, strict=True):
            evaluator = AccuracyEvaluator(names[:3], [0, 1, 2], 4)
            drawn = np.repeat(np.arange(40), row)
            evaluator.update(torch.from_numpy(np.eye(4)[predicted[drawn]] - 1.0), batch_of(labels[drawn].tolist()))
            assert score == pytest.approx(evaluator.compute()[metric], abs=1e-12), metric


def test_a_metric_that_the_stored_results_lack_is_an_error(tmp_path):
    record = {"schema": SCHEMA, "task": "classification"}
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"top5 cannot be computed .* classification: use top1, balanced, balanced_acc"):
        read_images(tmp_path, "top5")


def top1(correct: np.ndarray) -> ImageResults:
    keys = tuple(map(str, range(len(correct))))
    return ImageResults(keys, "top1", lambda counts: counts @ correct / counts.sum(1))


def verdicts(random: np.random.Generator, trials: int, images: int, rate: float, gain: float) -> dict[str, float]:
    """Share of each verdict, over pairs of networks with independent errors."""
    found = [
        bootstrap([top1(random.random(images) < rate + gain)], [top1(random.random(images) < rate)], 400, trial).verdict
        for trial in range(trials)
    ]
    return {verdict: found.count(verdict) / trials for verdict in set(found)}


@pytest.mark.parametrize(("images", "rate"), [(87, 0.7), (300, 0.9)])
def test_equal_networks_are_distinguished_in_one_of_twenty_trials(images, rate):
    shares = verdicts(np.random.default_rng(1), 1500, images, rate, 0.0)
    assert 0.93 <= shares["not distinguishable"] <= 0.97


def test_differences_of_three_sigma_are_detected():
    """In the normal approximation, 85% of such differences exceed 1.96 sigma."""
    images, rate = 300, 0.7
    gain = 3 * np.sqrt(2 * rate * (1 - rate) / images)
    assert verdicts(np.random.default_rng(2), 500, images, rate, gain)["better"] >= 0.8


def test_the_bootstrap_of_ap_is_calibrated(tmp_path):
    """Pairs of networks with the same amount of independent noise differ by chance only."""
    random = np.random.default_rng(3)
    truth = coco_truth(random)
    results = [match_detections(truth, detections_of(truth, random)) for _ in range(80)]
    found = [bootstrap([a], [b], 200).verdict for a, b in zip(results[::2], results[1::2], strict=True)]
    assert found.count("not distinguishable") >= 34  # of 40; at a true 95%, P(< 35) is 5%


def test_seeds_that_differ_widen_the_interval():
    random = np.random.default_rng(0)
    base = random.random(2000) < 0.5
    same = [top1(base)] * 3
    different = [top1(base | (random.random(2000) < share)) for share in (0.0, 0.1, 0.3)]
    one = bootstrap([different[1]], same[:1])
    several = bootstrap(different, same)
    assert several.high - several.low > 3 * (one.high - one.low)
    assert several.value == pytest.approx(np.mean([r.score(np.ones((1, 2000)))[0] for r in different]) - base.mean())


def test_interval_of_two_seeds_by_hand():
    """Seeds with scores 0 and 1 for all images: means 0, 1/2 and 1 with probabilities 1/4, 1/2, 1/4, times sqrt(2).

    The baseline's two seeds are equal, so the interval depends on our seeds only.
    """
    always, never, half = (top1(np.full(40, value)) for value in (1.0, 0.0, 0.5))
    for level in (0.6, 0.9):  # each end has a quarter of the resamples, so the middle 60% include both
        found = bootstrap([always, never], [half, half], level=level)
        assert found.value == 0
        assert (found.low, found.high) == pytest.approx((-np.sqrt(0.5), np.sqrt(0.5)))
    middle = bootstrap([always, never], [half, half], level=0.4)
    assert (middle.value, middle.low, middle.high) == (0, 0, 0)


def test_the_interval_is_of_ours_minus_baseline():
    """The baseline misses a tenth of the images, ours none: every resample is at least 0."""
    found = bootstrap([top1(np.ones(50))], [top1(np.arange(50) % 10 > 0)])
    assert found.value == pytest.approx(0.1)
    assert 0 < found.low < 0.1 < found.high < 0.25


def test_the_same_seed_draws_the_same_images():
    random = np.random.default_rng(0)
    ours, baseline = (top1(random.random(60) < 0.6) for _ in range(2))
    first, again, other = (bootstrap([ours], [baseline], seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


def test_the_number_of_resamples():
    sizes = []

    def score(counts):
        sizes.append(len(counts))
        assert (counts.sum(1) == 9).all()
        return np.full(len(counts), 0.5)

    run = ImageResults(tuple("abcdefghi"), "top1", score)
    bootstrap([run], [run], resamples=300)
    assert sum(sizes) == 2 * (1 + 300)  # for both sides: all images once, and the resamples


def test_equal_results_do_not_differ_and_other_images_are_an_error():
    correct = np.arange(50) % 3 == 0
    assert bootstrap([top1(correct)], [top1(correct)]) == Difference(0, 0, 0, images=len(correct))
    assert Difference(0, 0, 0).verdict == "not distinguishable"
    assert Difference(-0.1, -0.2, -0.05).verdict == "worse"
    assert Difference(0.1, 0.05, 0.2).verdict == "better"
    assert Difference(0.013, 0.013, 0.013, images=1).verdict == "too little data"
    assert Difference(float("nan"), float("nan"), float("nan")).verdict == "too little data"
    for value in (-0.1, 0.1):
        assert Difference(value, -0.2, 0.2).verdict == "not distinguishable"
    with pytest.raises(BadInput, match="same images"):
        bootstrap([top1(correct)], [top1(correct[:-1])])
    other = replace(top1(correct), metric="AP")
    with pytest.raises(BadInput, match="same images"):
        bootstrap([top1(correct)], [other])


def test_a_run_without_results_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="train it again"):
        read_images(tmp_path)
    (tmp_path / "record.json").write_text('{"schema": 2, "task": "classification"}')
    with pytest.raises(BadInput, match=r"images\.csv"):
        read_images(tmp_path)
