"""Error types of detections: against numbers of tidecv, and against cases that are counted by hand.

The expected numbers are those of tidecv 1.0.1, the implementation of TIDE's authors, in percent. They were made like
this, in an environment of its own, for `scene(SEED)` and for the files in tests/fixtures/detections (12 images of the
demo scenes, with detections of a trained ResNet-18 detector):

    gt, found = tidecv.Data("gt"), tidecv.Data("found")
    for image in truth["images"]: gt.add_image(image["id"], image["file_name"])
    for a in truth["annotations"]:
        add = gt.add_ignore_region if a["iscrowd"] else gt.add_ground_truth
        add(a["image_id"], a["category_id"], a["bbox"])
    for d in detections: found.add_detection(d["image_id"], d["category_id"], d["score"], d["bbox"])
    tide = tidecv.TIDE()
    run = tide.evaluate(gt, found, mode=tidecv.TIDE.BOX, name="x")
    run.ap, tide.get_main_errors()["x"], tide.get_special_errors()["x"], run.count_errors()
"""

import json
from pathlib import Path

import numpy as np
import pytest

from detection.error_types import NO_ERROR, TYPES, Found, Objects, Outcome, error_costs, error_counts
from detection.errors import overlapping, what_went_wrong
from detection.matching import ClassMatches, operating_point
from detection.results import match_detections

FIXTURE = Path(__file__).parents[1] / "fixtures" / "detections"
COSTS = ("AP50", *TYPES, "false_positives", "false_negatives")
TIDECV = {  # seed: AP50, dAP in the order of COSTS, then the counts in the order of TYPES
    0: (
        [
            *(41.23921045950749, 6.22884403824996, 8.079897921918885, 0.18584095251631538, 1.172015957251844),
            *(4.672358375947482, 13.439113142083407, 16.186532114749937, 33.878839807057545),
        ],
        [3, 15, 3, 12, 22, 8],
    ),
    1: (
        [
            *(22.976511936907993, 9.96903261754743, 15.672541155214407, 1.492896542401489, 0.46113539925421776),
            *(1.157854109586772, 2.3530924521023486, 14.152200934379142, 19.222065063649215),
        ],
        [5, 7, 2, 5, 9, 6],
    ),
    2: (
        [
            *(30.99411726886975, 5.623258754446859, 14.717328875744698, 0.7473961681882457, 0.24752475247525751),
            *(7.020184161273271, 11.727262011915457, 20.491031245981738, 29.33629077193428),
        ],
        [9, 12, 5, 6, 22, 8],
    ),
    3: (
        [
            *(31.608049541217845, 15.672553519088169, 13.029504873564271, 4.241670046125471, 1.2171258334624682),
            *(2.513237587495027, 9.82745802052731, 32.25333659739601, 19.41079135386066),
        ],
        [10, 12, 8, 10, 10, 6],
    ),
    7: (
        [
            *(27.157044651833605, 8.099602036548351, 11.851597283788518, 5.883384391070688, 0.8820545877606882),
            *(3.5872652348758223, 7.966145298740397, 22.347905843215894, 24.887844047562663),
        ],
        [7, 12, 13, 6, 23, 10],
    ),
    11: (
        [
            *(28.02127534181989, 11.426654745306482, 12.637838646502015, 0.4278642149929297, 1.4759683385920894),
            *(2.7159948137671, 10.36313452773847, 19.00842762847714, 32.12331054534022),
        ],
        [10, 11, 2, 8, 18, 10],
    ),
}
TIDECV_OF_RUN = (
    [
        *(80.79707271889663, 4.3283420890676325, 8.749202557467456, 0.7672679597192484, 0.15217009808313264),
        *(1.07108163646555, 0.0, 11.876194607836041, 5.1528516512680085),
    ],
    [149, 102, 103, 27, 24, 0],
)


def scene(seed, images=12, classes=4, phantom=False):
    """Truth with crowds, and detections with errors of every type; with a class that has no objects if `phantom`."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []

    def detect(image, label, box, score):
        detections.append({"image_id": image, "category_id": label, "bbox": box.tolist(), "score": score})

    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 7))):
            box = np.r_[rng.uniform(0, 150, 2), rng.uniform(15, 80, 2)]
            label = int(rng.integers(1, classes + 1))
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box.tolist()}
            annotations.append(row | {"area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.1)})
            for _ in range(int(rng.integers(0, 4))):
                moved = box + rng.normal(0, rng.choice([2, 15]), 4)
                moved[2:] = np.maximum(moved[2:], 4)
                other = int(rng.integers(1, classes + 1 + phantom)) if rng.random() < 0.35 else label
                detect(image, other, moved, float(rng.random()))
        for _ in range(int(rng.integers(0, 3))):
            label = int(rng.integers(1, classes + 1 + phantom))
            box = np.r_[rng.uniform(0, 200, 2), rng.uniform(10, 50, 2)]
            detect(image, label, box, float(rng.random() * 0.6))
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 256, "height": 256} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, classes + 1 + phantom)],
    }
    return truth, detections


def measured(truth, detections, limit=100):
    """Costs in percent in the order of `COSTS`, counts by type, and the outcome."""
    objects, found = Objects.of(truth), Found.of(truth, detections, limit)
    outcome, classes = Outcome.of(objects, found), len(truth["categories"])
    costs = error_costs(objects, found, outcome, classes)
    return [100 * costs[name] for name in COSTS], error_counts(objects, found, outcome, classes).sum(0), outcome


def document(boxes, labels, areas=None, crowd=(), images=1):
    rows = [
        {"id": i, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": int(i in crowd)}
        for i, (box, label) in enumerate(zip(boxes, labels, strict=True), 1)
    ]
    for row, area in zip(rows, areas or [], strict=bool(areas)):
        row["area"] = area
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in range(1, images + 1)],
        "annotations": rows,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def detection(box, label, score, image=1):
    return {"image_id": image, "category_id": label, "bbox": box, "score": score}


def check_counts(counts, expected, outcome):
    """The peer tidecv also gives a type to detections that are matched to a crowd."""
    more = np.array(expected) - counts
    assert (more >= 0).all()
    assert more[TYPES.index("missed")] == 0
    assert more.sum() == (~outcome.counted).sum()


@pytest.mark.parametrize("seed", TIDECV)
def test_costs_equal_those_of_tidecv(seed):
    costs, counts, outcome = measured(*scene(seed))
    expected, expected_counts = TIDECV[seed]
    assert costs == pytest.approx(expected, abs=1e-9)
    check_counts(counts, expected_counts, outcome)


def test_costs_of_a_trained_detector_equal_those_of_tidecv():
    truth, detections = (json.loads((FIXTURE / name).read_text()) for name in ("truth.json", "detections.json"))
    costs, counts, outcome = measured(truth, detections)
    assert costs == pytest.approx(TIDECV_OF_RUN[0], abs=1e-9)
    check_counts(counts, TIDECV_OF_RUN[1], outcome)


def test_classes_without_objects_are_left_out_of_means_as_in_coco():
    # tidecv includes the fifth class, which is detected and has no objects, with AP 0: its numbers are 4/5 of these.
    tidecv = [21.942765705141944, 6.944599954500955, 15.171258884130147, 0.6566370922806612, 2.043621944612042]
    tidecv += [1.27983897290828, 8.009515237238013, 13.502778849313508, 25.627884216993102]
    costs, _, _ = measured(*scene(5, phantom=True))
    assert [0.8 * cost for cost in costs] == pytest.approx(tidecv, abs=1e-9)


def test_ap50_is_that_of_coco():
    truth, detections = scene(0)
    images = match_detections(truth, detections, "AP50")
    ones = np.ones((1, len(images.keys)), np.int64)
    assert measured(truth, detections)[0][0] == pytest.approx(100 * float(images.score(ones)[0]), abs=1e-9)


def test_each_type_by_hand():
    truth = document([[0, 0, 20, 20], [50, 50, 20, 20], [0, 60, 20, 20]], [1, 1, 2])
    detections = [
        detection([0, 0, 20, 20], 1, 0.9),  # correct
        detection([0, 1, 20, 20], 1, 0.8),  # duplicate: IoU 0.905 with the first box
        detection([50, 60, 20, 20], 1, 0.7),  # localisation: IoU 1/3 with the second
        detection([0, 60, 20, 20], 1, 0.6),  # class: the third box, which is a dog
        detection([0, 70, 20, 20], 1, 0.5),  # both: IoU 1/3 with the third box, which is a dog
        detection([80, 0, 10, 10], 2, 0.4),  # background
    ]
    costs, counts, outcome = measured(truth, detections)
    types = [NO_ERROR, *(TYPES.index(name) for name in ("duplicate", "localisation", "class", "both", "background"))]
    assert outcome.types.tolist() == types
    assert counts.tolist() == [1, 1, 1, 1, 1, 0]  # the errors could find both other boxes: none is missed
    # AP50 of cats: precision 1 up to recall 0.5, 51 of 101 samples; of dogs: 0.
    assert costs[0] == pytest.approx(100 * 51 / 101 / 2)
    # Corrected class: the dog is found at rank 1, AP 1; the cats do not change.
    assert costs[1] == pytest.approx(100 * 1 / 2)
    # Corrected location: both cats are found, the second at rank 3 with precision 2/3.
    assert costs[2] == pytest.approx(100 * 50 / 101 * (2 / 3) / 2)


def test_missed_boxes_are_those_that_no_corrected_error_would_find():
    truth = document([[0, 0, 20, 20], [50, 50, 20, 20]], [1, 1])
    costs, counts, _ = measured(truth, [detection([0, 0, 20, 20], 1, 0.9)])
    assert counts.tolist() == [0, 0, 0, 0, 0, 1]
    assert costs[COSTS.index("missed")] == pytest.approx(100 * 50 / 101)


def test_difficult_objects_and_crowds_are_neither_required_nor_counted():
    boxes = [[0, 0, 20, 20], [40, 0, 20, 20], [0, 40, 50, 50]]
    truth = document(boxes, [1, 1, 1], areas=[400, 2e10, 2500], crowd=(3,))
    detections = [detection(box, 1, score) for box, score in zip(boxes, (0.7, 0.8, 0.9), strict=True)]
    detections.append(detection([10, 50, 10, 10], 1, 0.95))  # a second one inside the crowd
    costs, counts, outcome = measured(truth, detections)
    assert costs[0] == pytest.approx(100)
    assert counts.sum() == 0
    assert outcome.counted.sum() == 1


def test_an_object_is_missed_if_its_only_detection_is_one_of_the_crowd_around_it():
    truth = document([[10, 10, 50, 50], [-1e6, -1e6, 2e6, 2e6]], [1, 1], crowd=(2,))
    _, counts, outcome = measured(truth, [detection([40, 10, 50, 50], 1, 0.9)])
    assert not outcome.counted.any()
    assert dict(zip(TYPES, counts, strict=True))["missed"] == counts.sum() == 1


def test_no_detections_and_no_objects():
    costs, counts, _ = measured(document([[0, 0, 20, 20]], [1]), [])
    assert costs[0] == 0
    assert counts.tolist() == [0, 0, 0, 0, 0, 1]
    costs, counts, _ = measured(document([], []), [detection([0, 0, 20, 20], 1, 0.9)])
    assert np.isnan(costs[0])
    assert counts.tolist() == [0, 0, 0, 0, 1, 0]


def test_the_limit_applies_to_each_class_in_an_image():
    truth = document([[0, 0, 20, 20]], [1])
    detections = [detection([60, 60, 10, 10], 1, 0.9), detection([0, 0, 20, 20], 1, 0.8)]
    assert measured(truth, detections, limit=2)[0][0] == pytest.approx(50)
    assert measured(truth, detections, limit=1)[0][0] == 0
    detections[0]["category_id"] = 2
    assert measured(truth, detections, limit=1)[0][0] == pytest.approx(100)


def test_order_of_rows_does_not_matter():
    truth, detections = scene(2)
    shuffled = [detections[i] for i in np.random.default_rng(0).permutation(len(detections))]
    reordered = truth | {"images": truth["images"][::-1], "annotations": truth["annotations"][::-1]}
    expected, result = what_went_wrong(truth, detections, 100, 0.3), what_went_wrong(reordered, shuffled, 100, 0.3)
    assert json.dumps(result) == json.dumps(expected)


def test_counts_at_the_score_threshold():
    truth = document([[0, 0, 20, 20], [50, 50, 20, 20]], [1, 1])
    detections = [
        detection([0, 0, 20, 20], 1, 0.9),
        detection([80, 0, 10, 10], 2, 0.6),
        detection([50, 50, 20, 20], 1, 0.2),
    ]
    errors = what_went_wrong(truth, detections, 100, 0.5)["errors.json"]
    assert errors["counts"] == dict.fromkeys(TYPES, 0) | {"background": 1}
    at = errors["at_threshold"]
    assert at["counts"] == dict.fromkeys(TYPES, 0) | {"background": 1, "missed": 1}
    assert at["per_class"]["cat"] == {"objects": 2, "correct": 1} | dict.fromkeys(TYPES, 0) | {"missed": 1}
    assert at["per_class"]["dog"] == {"objects": 0, "correct": 0} | dict.fromkeys(TYPES, 0) | {"background": 1}
    assert what_went_wrong(truth, detections)["errors.json"]["at_threshold"] is None


def test_crowding_by_hand():
    # The first two overlap with an IoU of 1/3, the third has 1/9 with the second; the last is alone, but for a crowd.
    boxes = [[0, 0, 20, 20], [10, 0, 20, 20], [26, 0, 20, 20], [60, 60, 20, 20], [60, 60, 20, 20]]
    truth = document(boxes, [1, 2, 1, 1, 1], crowd=(5,))
    assert overlapping(Objects.of(truth)).tolist() == [1, 2, 1, 0, 0]
    detections = [detection(boxes[0], 1, 0.9), detection(boxes[3], 1, 0.8), detection([80, 0, 5, 5], 1, 0.85)]
    groups = what_went_wrong(truth, detections)["errors.json"]["crowding"]["overlapping_boxes"]
    assert [(g["objects"], g["recall50"]) for g in groups.values()] == [(1, 1.0), (2, 0.5), (1, 0.0)]
    assert groups["0"]["AP50"] == pytest.approx(1 / 2)  # behind the wrong detection
    assert groups["1"]["AP50"] == pytest.approx(51 / 101)
    assert groups["2 or more"]["AP50"] == 0


def test_calibration_of_detections_counts_matches_at_an_iou_of_one_half():
    truth = document([[0, 0, 20, 20], [0, 40, 50, 50]], [1, 1], crowd=(2,))
    detections = [
        detection([0, 0, 20, 20], 1, 0.9),
        detection([0, 1, 20, 20], 1, 0.3),  # duplicate
        detection([0, 40, 50, 50], 1, 0.8),  # crowd: does not count
    ]
    calibration = what_went_wrong(truth, detections)["calibration.json"]
    assert calibration["predictions"] == 2
    assert calibration["ECE"] == pytest.approx((0.1 + 0.3) / 2)


def test_correct_detections_at_the_threshold_are_those_of_the_recall():
    truth, detections = (json.loads((FIXTURE / name).read_text()) for name in ("truth.json", "detections.json"))
    images = match_detections(truth, detections, "recall")
    recall = float(images.score(np.ones((1, len(images.keys)), np.int64))[0])
    objects, found = Objects.of(truth), Found.of(truth, detections, 100)
    outcome = Outcome.of(objects, found)
    point = operating_point(
        [
            ClassMatches(
                *(values[of][np.argsort(-found.scores[of])] for values in (found.scores, outcome.correct)),
                int((objects.counted & (objects.label == label)).sum()),
            )
            for label in range(len(truth["categories"]))
            for of in [outcome.counted & (found.label == label)]
        ]
    )
    table = what_went_wrong(truth, detections, 100, point.threshold)["errors.json"]["at_threshold"]["per_class"]
    recalls = [row["correct"] / row["objects"] for row in table.values() if row["objects"]]
    assert np.mean(recalls) == pytest.approx(recall)
