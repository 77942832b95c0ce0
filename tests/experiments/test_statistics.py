"""Tests verdicts: scores of resamples against pycocotools and numpy on repeated images, and error rates."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import stats

from backbones.errors import BadInput, UserError
from classification.evaluator import AccuracyEvaluator
from classification.results import classification_results
from classification.spec import SPEC as CLASSIFICATION
from data.batch import IGNORE, collate
from detection.config import COCO_METRICS
from detection.matching import match_classes, operating_point
from detection.results import match_detections
from detection.truth import coco_document
from engine.image_results import ImageResults
from engine.schema import SCHEMA
from experiments.statistics import Difference, compare_resplits, compare_to_baseline, read_images
from experiments.statistics.correction import holm, interval
from experiments.statistics.difference import FEWEST_IMAGES
from experiments.statistics.planning import Pilot
from experiments.statistics.variance import Spread
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
        expected = np.nanmean([(a & b).sum() / (a | b).sum() if a.any() else np.nan for a, b in pairs])
        assert score == pytest.approx(expected, abs=1e-12)
    pixels = np.bincount(truth[truth != IGNORE])
    assert results.majority == pytest.approx(pixels.max() / pixels.sum() / 4, abs=1e-12)  # IoU 0 of the other three

    evaluator = SegmentationEvaluator("abcd")  # all classes are in the truth: the scores are those of the evaluator
    for i in range(IMAGES):
        evaluator.update([torch.from_numpy(predicted[i].clip(0, 3)).long()], collate([sample(10 * i, truth[i])]))
    evaluator.write_images(tmp_path / "images.npy")
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
    assert results.majority == 0.5


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


def test_scores_of_the_most_frequent_class_equal_those_of_scikit_learn(tmp_path):
    """Pixels are samples of scikit-learn's classifier. Class c is frequent in predictions, d occurs only in them."""
    pytest.importorskip("sklearn", reason="make extras installs it")
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

    random = np.random.default_rng(0)
    truth = random.choice(3, (12, 8, 5), p=[0.2, 0.5, 0.3])
    predicted = random.choice(4, (12, 8, 5), p=[0, 0.1, 0.6, 0.3])
    labels = truth.ravel()
    always = DummyClassifier(strategy="most_frequent").fit(labels[:, None], labels).predict(labels[:, None])
    quality = {"labels": [0, 1, 2], "average": "macro", "zero_division": 0}
    shared = {
        "recall": recall_score(labels, always, **quality),
        "precision": precision_score(labels, always, **quality),
    }

    evaluator = SegmentationEvaluator("abcd")
    for i in range(12):
        evaluator.update([torch.from_numpy(predicted[i])], collate([sample(i, truth[i].astype(np.uint8))]))
    evaluator.write_images(tmp_path / "images.npy")
    expected = shared | {
        "mIoU": jaccard_score(labels, always, **quality),
        "pixel_accuracy": accuracy_score(labels, always),
        "mean_accuracy": shared["recall"],
        "fwIoU": jaccard_score(labels, always, average="weighted", zero_division=0),
        "Dice": f1_score(labels, always, **quality),
    }
    found = {name: segmentation_results(tmp_path / "images.npy", name).majority for name in SEGMENTATION_METRICS}
    assert found == pytest.approx(expected, abs=1e-12)

    rows = [f"{i},{'abcd'[t]},{'abcd'[p]},1,{int(t == p)}\n" for i, (t, p) in enumerate(zip(labels, predicted.ravel()))]  # noqa: B905
    (tmp_path / "images.csv").write_text("".join(["file,class,predicted,probability,correct\n", *rows]))
    balanced = dict.fromkeys(("balanced", "balanced_accuracy"), shared["recall"])
    expected = shared | balanced | {"top1": accuracy_score(labels, always), "F1": f1_score(labels, always, **quality)}
    names = CLASSIFICATION.image_metrics
    found = {name: classification_results(tmp_path / "images.csv", name).majority for name in names}
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_metric_that_the_stored_results_lack_is_an_error(tmp_path):
    record = {"schema": SCHEMA, "task": "classification"}
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"top5 cannot be computed .* classification: use top1, balanced, balanced_acc"):
        read_images(tmp_path, "top5")


def top1(correct: np.ndarray) -> ImageResults:
    keys = tuple(map(str, range(len(correct))))
    return ImageResults(keys, "top1", lambda counts: counts @ correct / counts.sum(1).clip(1))


def compared(ours, baseline, **settings) -> Difference:
    """The difference of one backbone's runs to those of the baseline."""
    return compare_to_baseline({"ours": ours, "baseline": baseline}, "baseline", **settings)["ours"]


def runs(
    random: np.random.Generator, seeds: int, images: np.ndarray, skill: float, spread: float
) -> list[ImageResults]:
    """Trainings of a backbone on images of different difficulty. `skill` and `spread` are in standard deviations."""
    skills = random.normal(skill, spread, seeds)
    return [top1((random.normal(own, 1, len(images)) > images).astype(float)) for own in skills]


def test_equal_backbones_are_distinguished_in_at_most_one_of_twenty_trials():
    random, found = np.random.default_rng(1), []
    for trial in range(400):
        images = random.normal(0, 1, 150)
        sides = [runs(random, 3, images, 0.3, 0.2) for _ in range(2)]
        found.append(compared(*sides, resamples=200, seed=trial).verdict)
    assert found.count("better") + found.count("worse") <= 26  # at a true 5%, P(> 26) is 7%; it is about 3%
    assert found.count("not distinguishable") > 350


def test_a_large_difference_is_found_with_three_seeds():
    random, found = np.random.default_rng(2), []
    for trial in range(100):
        images = random.normal(0, 1, 200)
        sides = runs(random, 3, images, 1.0, 0.1), runs(random, 3, images, 0.3, 0.1)
        found.append(compared(*sides, resamples=200, seed=trial).verdict)
    assert found.count("better") >= 80


def test_one_training_each_is_no_verdict_on_the_backbone():
    strong, weak = np.arange(200) % 10 > 0, np.arange(200) % 2 > 0
    found = compared([top1(strong)], [top1(weak)], seconds={"ours": 1800, "baseline": 5400})
    assert found.verdict == "too little data"
    assert found.reason == (
        "one training each: differs on these images; a verdict on the backbone needs at least 1 more seed "
        "(about 2.0 hours here)"
    )
    assert 0 < found.low < found.value < found.high  # the interval covers the images
    random = np.random.default_rng(0)
    equal = compared(*([top1(random.random(200) < 0.5)] for _ in range(2)))
    assert "does not differ on these images" in equal.reason
    assert equal.verdict == "too little data"
    uneven = compared([top1(strong)] * 2, [top1(weak)])
    assert uneven.reason.startswith("one training on one side: differs on these images")


@pytest.mark.parametrize("images", [1, 2, 5, FEWEST_IMAGES - 1])
def test_few_images_give_no_verdict(images):
    ours, theirs = [top1(np.ones(images))] * 3, [top1(np.zeros(images))] * 3
    found = compared(ours, theirs)
    assert (found.verdict, found.value) == ("too little data", 1.0)
    assert found.reason == f"{images} images; a verdict needs at least {FEWEST_IMAGES}"


def test_a_difference_on_few_of_many_images_is_no_verdict():
    """Three of 500 images decide. Their interval has the right width for normal values, which these are not."""
    base = np.arange(500) % 3 > 0
    better = base.copy()
    better[[0, 3, 6]] = True
    found = compared([top1(better)] * 3, [top1(base)] * 3)
    assert found.verdict == "too little data"
    assert "too few of the 500 images: the difference rests on about 3" in found.reason


def test_equal_results_of_different_runs_are_too_little_data_and_the_same_results_are_not_distinguishable():
    all_right = [top1(np.ones(50)) for _ in range(6)]
    assert compared(all_right[:3], all_right[3:]).verdict == "too little data"
    same = replace(all_right[0], digest="a")
    found = compared([same], [same])
    assert (found.verdict, found.value, found.low, found.high) == ("not distinguishable", 0, 0, 0)
    assert found.reason == "the results are the same"
    other = replace(all_right[0], digest="b")
    assert compared([same], [other]).verdict == "too little data"


def test_an_undefined_metric_is_no_verdict():
    undefined = ImageResults(tuple(map(str, range(50))), "top1", lambda counts: np.full(len(counts), np.nan))
    found = compared([undefined] * 2, [top1(np.ones(50))] * 2)
    assert found.verdict == "too little data"
    assert found.reason == "the metric is undefined for some trainings or choices of images"


def test_seeds_that_differ_widen_the_interval():
    random = np.random.default_rng(0)
    base = random.random(2000) < 0.5
    same = [top1(base | (random.random(2000) < 0.01)) for _ in range(3)]
    different = [top1(base | (random.random(2000) < share)) for share in (0.0, 0.1, 0.3)]
    close = [top1(base | (random.random(2000) < 0.13)) for _ in range(3)]
    wide, narrow = compared(different, same), compared(close, same)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.value == pytest.approx(np.mean([r.score(np.ones((1, 2000)))[0] for r in different]) - 0.5, abs=0.05)
    assert wide.share_of_images < 0.1 < narrow.share_of_images


def test_variances_by_hand():
    """Every training has the same result on all images, so that only the trainings vary: 0.4, 0.6 and 0.1, 0.2."""
    found = compared([top1(np.full(40, s)) for s in (0.4, 0.6)], [top1(np.full(40, s)) for s in (0.1, 0.2)])
    assert found.variance == pytest.approx((0.0, 0.02 / 2, 0.005 / 2))
    assert found.verdict == "too little data"  # no image decides


def test_the_interval_of_images_alone_is_that_of_the_paired_t_test():
    random = np.random.default_rng(4)
    ours, theirs = random.random((2, 400))
    found = compared([top1(ours)], [top1(theirs)], resamples=4000)
    expected = stats.ttest_1samp(ours - theirs, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_the_interval_of_trainings_alone_is_that_of_welchs_t_test():
    ours, theirs = [0.4, 0.5, 0.7], [0.1, 0.2, 0.15, 0.3]
    freedom = stats.ttest_ind(ours, theirs, equal_var=False).df
    part = Spread(0.0, np.var(ours, ddof=1) / 3, np.var(theirs, ddof=1) / 4, 100, freedom, 50)
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    value = np.mean(ours) - np.mean(theirs)
    assert part.p_value(value) == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval(0.95)
    assert part.half_width(0.95) == pytest.approx((interval.high - interval.low) / 2)


def test_holm():
    """The example of Holm (1979): thresholds 0.05 / 4, 0.05 / 3, ... until the first that is not met."""
    assert holm({"a": 0.01, "b": 0.02, "c": 0.016, "d": 0.3}, 0.05) == {"a", "c", "b"}
    assert holm({"a": 0.013, "b": 0.001, "c": 0.02, "d": 0.3}, 0.05) == {"b", "a", "c"}
    assert holm({"a": 0.02, "b": 0.021, "c": 0.022}, 0.05) == set()
    assert holm({}, 0.05) == set()


def test_intervals_agree_with_holms_verdicts():
    random = np.random.default_rng(5)
    for _ in range(300):
        parts = {name: Spread(v, w, w, 100, 4, 50) for name, v, w in zip("abcd", *random.random((2, 4)), strict=True)}
        values = {name: random.normal(0, 4) for name in parts}
        rejected = holm({name: part.p_value(values[name]) for name, part in parts.items()}, 0.05)
        for name, part in parts.items():
            low, high = interval(values[name], part, name in rejected, 4, len(rejected), 0.95)
            assert low <= values[name] <= high
            assert (low < 0 < high) == (name not in rejected)


def test_several_backbones_are_corrected_together():
    random, wrong, alone = np.random.default_rng(6), 0, 0
    for trial in range(150):
        images = random.normal(0, 1, 120)
        sides = {name: runs(random, 4, images, 0.3, 0.2) for name in "abcdef"}
        found = compare_to_baseline(sides, "a", resamples=150, seed=trial)
        assert {one.comparisons for one in found.values()} == {5}
        wrong += any(one.verdict in ("better", "worse") for one in found.values())
        alone += any(one.p_value < 0.05 for one in found.values())
    assert wrong <= 12  # at a true 5%, P(> 12) is 5%
    assert alone > wrong
    assert "corrected for 5 comparisons" in found["b"].reason


def test_the_same_seed_draws_the_same_images():
    random = np.random.default_rng(0)
    ours, baseline = (top1(random.random(60) < 0.6) for _ in range(2))
    first, again, other = (compared([ours], [baseline], seed=seed) for seed in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


def test_each_run_is_scored_once_for_all_comparisons():
    scored = []

    def counting(name: str) -> ImageResults:
        def score(counts):
            scored.append((name, len(counts)))
            return counts[:, 0] / counts.sum(1)

        return ImageResults(tuple(map(str, range(40))), "top1", score)

    compare_to_baseline({name: [counting(name)] for name in "abc"}, "a", resamples=300)
    assert {name: sum(n for other, n in scored if other == name) for name in "abc"} == dict.fromkeys(
        "abc", 1 + 40 + 300
    )


def test_runs_on_other_images_or_with_another_metric_are_an_error():
    correct = np.arange(50) % 3 == 0
    with pytest.raises(BadInput, match="same images"):
        compared([top1(correct)], [top1(correct[:-1])])
    with pytest.raises(BadInput, match="same images"):
        compared([top1(correct)], [replace(top1(correct), metric="AP")])


def test_stray_pixels_of_a_class_that_the_truth_lacks_do_not_add_a_class(tmp_path):
    """Two classes in the truth. One network predicts three pixels as a third class, and is right otherwise."""
    truth = np.zeros((4, 10, 10), np.uint8)
    truth[:, :5] = 1
    scores = []
    for stray in (0, 3):
        predicted = truth.copy()
        predicted[0, 9, :stray] = 2
        evaluator = SegmentationEvaluator("abc")
        for i in range(4):
            evaluator.update([torch.from_numpy(predicted[i]).long()], collate([sample(i, truth[i])]))
        evaluator.write_images(tmp_path / f"{stray}.npy")
        scores.append(segmentation_results(tmp_path / f"{stray}.npy").score(np.ones((1, 4), int))[0])
    assert scores == pytest.approx([1.0, (1 + 197 / 200) / 2])


def test_a_run_without_results_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="train it again"):
        read_images(tmp_path)
    (tmp_path / "record.json").write_text('{"schema": 2, "task": "classification"}')
    with pytest.raises(BadInput, match=r"images\.csv"):
        read_images(tmp_path)


def test_divisions_of_the_images_by_hand():
    """Differences 0.1, 0.2, 0.3: s^2 = 0.01; the mean has variance (1/3 + 0.25) s^2, with 2 degrees of freedom."""
    found = compare_resplits({"ours": [0.5, 0.7, 0.6], "baseline": [0.4, 0.5, 0.3]}, "baseline", 0.2, 80)["ours"]
    assert found.value == pytest.approx(0.2)
    width = stats.t.ppf(0.975, 2) * np.sqrt((1 / 3 + 0.25) * 0.01)
    assert (found.low, found.high) == pytest.approx((0.2 - width, 0.2 + width))
    assert found.verdict == "not distinguishable"
    assert found.reason == "the interval contains 0; over 3 divisions of the images"
    two = compare_resplits({"ours": [0.5, 0.7], "baseline": [0.4, 0.5]}, "baseline", 0.2, 80)["ours"]
    assert (two.verdict, two.reason) == (
        "too little data",
        "2 divisions of the images; a verdict needs at least 3",
    )


def test_a_plan_agrees_with_simulated_comparisons():
    """The share of trials that find a difference is the predicted power."""
    random = np.random.default_rng(8)
    images = random.normal(0, 1, 300)
    pilot = Pilot.of({name: runs(random, 12, images, 0.3, 0.15) for name in "ab"})
    assert (pilot.images, pilot.trainings, pilot.backbones) == (300, 24, ("a", "b"))
    difference, found = 0.1, []
    skill = 0.3 + difference / 0.28  # the slope of the score at this skill
    for trial in range(150):
        images = random.normal(0, 1, 300)
        ours, theirs = runs(random, 4, images, skill, 0.15), runs(random, 4, images, 0.3, 0.15)
        found.append(compared(ours, theirs, resamples=200, seed=trial).verdict)
    assert found.count("better") / 150 == pytest.approx(pilot.power(difference, 4, 300), abs=0.12)
    assert pilot.power(0.0, 4, 300) < 0.06
    assert pilot.power(difference, 8, 1200) > pilot.power(difference, 8, 300) > pilot.power(difference, 4, 300)
    fewest = pilot.seeds_for(difference, 300)
    assert pilot.power(difference, fewest, 300) >= 0.8 > pilot.power(difference, fewest - 1, 300)
    assert pilot.seeds_for(0.001, 300) is None
    assert Pilot.of({"a": runs(random, 5, images, 0.3, 0.1), "b": runs(random, 1, images, 0.3, 0.1)}) is None
