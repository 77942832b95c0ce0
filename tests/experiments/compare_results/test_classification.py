"""Compares tables of classified images, as timm and scripts write them, with NumPy's numbers."""

import csv

import numpy as np
import pytest

from experiments.compare_results.__main__ import main
from experiments.compare_results.classification import compare_classifications
from experiments.compare_results.config import CompareResultsConfig

CLASSES = ("ant", "bee", "wasp")
IMAGES = 60


def labels_of():
    """(n,) class index of each image."""
    return np.repeat(np.arange(3), [30, 20, 10])


def names_of():
    """Paths of the images below the truth: the same file names in several class folders do not occur."""
    return [f"{CLASSES[label]}/photo {i}.jpg" for i, label in enumerate(labels_of())]


def predictions_of(seed, accuracy=0.7):
    """(n,) predicted class index of each image."""
    random = np.random.default_rng(seed)
    return np.where(random.random(IMAGES) < accuracy, labels_of(), random.integers(0, 3, IMAGES))


@pytest.fixture
def truth(tmp_path):
    """A folder of class folders. Their images are not read."""
    for name in names_of():
        file = tmp_path / "val" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path / "val"


def table(path, header, rows, delimiter=","):
    """Write a table; returns the path."""
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def plain(path, predicted, order=None):
    """A table of file, label and prediction, by name."""
    rows = [
        (name, CLASSES[label], CLASSES[p]) for name, label, p in zip(names_of(), labels_of(), predicted, strict=True)
    ]
    return table(path, ("file", "label", "prediction"), rows if order is None else [rows[i] for i in order])


def scores_for(predicted, seed=0):
    """(n, 3) logits whose largest value is that of the predicted class."""
    scores = np.random.default_rng(seed).normal(size=(IMAGES, 3)).round(4)
    scores[np.arange(IMAGES), predicted] = scores.max(1) + 0.5
    return scores


def bases():
    return [name.rpartition("/")[2] for name in names_of()]


def timm(path, predicted):
    """`inference.py --include-index --label-type name`: the base names of files."""
    rows = [(name, p, CLASSES[p], 0.9) for name, p in zip(bases(), predicted, strict=True)]
    return table(path, ("filename", "index", "label", "prob"), rows)


def timm_descriptions(path, predicted):
    """Labels that are descriptions: the index counts."""
    rows = [(name, p, f"a kind of {CLASSES[p]}", 0.9) for name, p in zip(bases(), predicted, strict=True)]
    return table(path, ("filename", "index", "label", "prob"), rows)


def timm_top2(path, predicted):
    """`--topk 2`: lists as NumPy prints them."""
    rows = [
        (name, f"[{p} {(p + 1) % 3}]", f"['{CLASSES[p]}' '{CLASSES[(p + 1) % 3]}']", "[0.9 0.05]")
        for name, p in zip(bases(), predicted, strict=True)
    ]
    return table(path, ("filename", "index", "label", "prob"), rows)


def timm_columns(path, predicted):
    """`--topk 3 --results-separate-col`: probabilities are sorted, not by class."""
    rows = [
        (name, *(CLASSES[(p + k) % 3] for k in range(3)), 0.8, 0.15, 0.05)
        for name, p in zip(bases(), predicted, strict=True)
    ]
    return table(path, ("filename", *(f"{c}_{k}" for c in ("label", "prob") for k in range(3))), rows)


def timm_all(path, predicted):
    """`--topk 0 --results-separate-col --output-type logit`."""
    rows = [(name, *scores) for name, scores in zip(bases(), scores_for(predicted), strict=True)]
    return table(path, ("filename", "logit_0", "logit_1", "logit_2"), rows)


def torchvision(path, predicted):
    """A script on ImageFolder: full paths, target and prediction as indices, tabs."""
    rows = [
        (f"/data/insects/val/{name}", label, p)
        for name, label, p in zip(names_of(), labels_of(), predicted, strict=True)
    ]
    return table(path.with_suffix(".tsv"), ("path", "target", "pred"), rows, "\t")


def by_class_name(path, predicted):
    """Probabilities in columns called like the classes, in another order, and the true label."""
    order = [2, 0, 1]
    rows = [
        (name, CLASSES[label], *scores[order])
        for name, label, scores in zip(names_of(), labels_of(), scores_for(predicted), strict=True)
    ]
    return table(path, ("image", "label", *(CLASSES[i] for i in order)), rows)


def own(path, predicted):
    """`images.csv` of a run of this package."""
    rows = [
        (name, CLASSES[label], CLASSES[p], 0.9, int(label == p))
        for name, label, p in zip(names_of(), labels_of(), predicted, strict=True)
    ]
    return table(path, ("file", "class", "predicted", "probability", "correct"), rows)


WRITERS = (plain, timm, timm_descriptions, timm_top2, timm_columns, timm_all, torchvision, by_class_name, own)


def compare(truth, metric="top1", labels=(), **files):
    results = [f"{name}={path}" for name, path in files.items()]
    config = CompareResultsConfig("classification", str(truth), results, metric=metric, labels=list(labels))
    config.check()
    return compare_classifications(config, {name: [path] for name, path in files.items()}, metric)


def run(truth, folder, *arguments):
    main(["--task", "classification", "--truth", str(truth), "--output", str(folder / "out"), *arguments])
    with (folder / "out/results.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def refused(capsys, truth, folder, path):
    """The message of a table that is refused."""
    good = plain(folder / "good.csv", predictions_of(0))
    with pytest.raises(SystemExit) as stop:
        run(truth, folder, "--results", f"good={good}", f"bad={path}")
    assert stop.value.code == 3
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return " ".join(message.split())


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_each_table_has_the_scores_of_numpy(tmp_path, truth, writer):
    predicted = predictions_of(0)
    path = writer(tmp_path / "a.csv", predicted)
    found = compare(truth, a=path, b=path).sides[0]
    assert found.mean == (predicted == labels_of()).mean()
    recalls = [(predicted[labels_of() == k] == k).mean() for k in range(3)]
    assert list(found.by_class.values()) == pytest.approx(recalls)
    assert compare(truth, "balanced_accuracy", a=path, b=path).sides[0].mean == pytest.approx(np.mean(recalls))


def test_the_truth_may_be_a_table_without_images(tmp_path, truth):
    predicted = predictions_of(0)
    rows = [(name, CLASSES[label]) for name, label in zip(bases(), labels_of(), strict=True)]
    (tmp_path / "elsewhere").mkdir()
    file = table(tmp_path / "elsewhere" / "labels.csv", ("filename", "label"), rows)
    for writer in (plain, timm, torchvision):
        path = writer(tmp_path / "a.csv", predicted)
        assert compare(file, a=path, b=path).sides[0].mean == (predicted == labels_of()).mean()


def test_a_split_of_a_data_set(tmp_path, truth):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    (tmp_path / "train" / "ant" / "other.jpg").write_bytes(b"")
    path = timm(tmp_path / "a.csv", predictions_of(0))
    rows = run(tmp_path, tmp_path, "--data.split", "val", "--results", f"a={path}", f"b={path}")
    assert float(rows["a"]["mean"]) == pytest.approx((predictions_of(0) == labels_of()).mean(), abs=1e-6)


def test_a_shuffled_copy_is_not_distinguishable(tmp_path, truth):
    predicted = predictions_of(0)
    order = np.random.default_rng(1).permutation(IMAGES)
    a, b = plain(tmp_path / "a.csv", predicted), plain(tmp_path / "b.csv", predicted, order)
    rows = run(truth, tmp_path, "--results", f"a={a}", f"b={b}")
    assert rows["b"]["verdict"] == "not distinguishable"
    assert [float(rows["b"][name]) for name in ("difference", "low", "high")] == [0, 0, 0]


def test_two_tables_of_a_name_are_seeds(tmp_path, truth):
    paths = [plain(tmp_path / f"{seed}.csv", predictions_of(seed, 0.5 + 0.4 * (seed > 1))) for seed in range(4)]
    rows = run(truth, tmp_path, "--results", f"a={paths[0]},{paths[1]}", f"b={paths[2]},{paths[3]}")
    scores = [(predictions_of(seed, 0.5 + 0.4 * (seed > 1)) == labels_of()).mean() for seed in range(4)]
    assert rows["b"]["difference"] == f"{np.mean(scores[2:]) - np.mean(scores[:2]):.6f}"
    assert rows["b"]["seeds"] == "2"


def test_equal_probabilities_are_counted_and_the_first_class_counts(tmp_path, truth):
    scores = scores_for(predictions_of(0))
    scores[:4] = 1.0
    path = table(tmp_path / "a.csv", ("file", *CLASSES), [(n, *s) for n, s in zip(names_of(), scores, strict=True)])
    found = compare(truth, a=path, b=path)
    assert found.sides[0].files[0].facts["tied_scores"] == 4
    assert found.sides[0].mean == (scores.argmax(1) == labels_of()).mean()
    assert "4 of 60 images" in found.notes[0]


def test_classes_that_the_truth_lacks_count_as_wrong(tmp_path, truth):
    predicted = predictions_of(0)
    names = [CLASSES[p] for p in predicted]
    names[:5] = ["hornet"] * 5
    path = table(tmp_path / "a.csv", ("file", "prediction"), zip(names_of(), names, strict=True))
    found = compare(truth, a=path, b=path)
    assert found.sides[0].mean == (predicted == labels_of())[5:].sum() / IMAGES
    assert "5 predictions in a.csv are classes that the truth does not have, such as hornet" in found.warnings[0]


def test_numbers_that_are_names_and_positions_are_refused(tmp_path):
    truth, names = tmp_path / "val", []
    for i in range(40):
        names.append(f"{('0', '1', '10', '2')[i % 4]}/{i}.jpg")
        (truth / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        (truth / names[-1]).write_bytes(b"")
    path = table(tmp_path / "a.csv", ("file", "prediction"), [(name, "2") for name in names])
    with pytest.raises(Exception, match="can be names of classes or their positions"):
        compare(truth, a=path, b=path)
    found = compare(truth, labels=["names", "b=indices"], a=path, b=path).sides
    assert [list(side.by_class.values()) for side in found] == [[0, 0, 0, 1], [0, 0, 1, 0]]


def rows_of(predicted):
    return [[name, CLASSES[p]] for name, p in zip(names_of(), predicted, strict=True)]


def damaged(rows, change):
    rows = [list(row) for row in rows]
    change(rows)
    return rows


DAMAGE = {
    "missing images": (lambda rows: rows.__delitem__(slice(0, 5)), "5 of the 60 images of the truth"),
    "unknown image": (lambda rows: rows[3].__setitem__(0, "ant/other.jpg"), "1 of 60 images are not in the truth"),
    "an image twice": (lambda rows: rows.append(rows[0]), "1 images occur more than once: ant/photo 0.jpg"),
    "empty prediction": (lambda rows: rows[3].__setitem__(1, ""), "row 5 has no value in the column 'prediction'"),
    "other classes": (lambda rows: [row.__setitem__(1, "cat") for row in rows], "are none of the 3 classes"),
    "positions beyond": (
        lambda rows: [row.__setitem__(1, "700") for row in rows],
        "are positions beyond the 3 classes",
    ),
    "a longer row": (lambda rows: rows[3].append("x"), "row 5 has 3 cells"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_one_message(tmp_path, truth, capsys, damage):
    change, message = DAMAGE[damage]
    path = table(tmp_path / "bad.csv", ("file", "prediction"), damaged(rows_of(predictions_of(1)), change))
    found = refused(capsys, truth, tmp_path, path)
    assert message in found
    assert "bad.csv" in found


def test_a_label_that_contradicts_the_truth_is_refused(tmp_path, truth, capsys):
    rows = [(name, CLASSES[label], "ant") for name, label in zip(names_of(), labels_of(), strict=True)]
    rows[40] = (rows[40][0], "wasp", "ant")
    path = table(tmp_path / "bad.csv", ("file", "label", "prediction"), rows)
    assert "1 of 60 labels differ from the truth" in refused(capsys, truth, tmp_path, path)


def test_a_score_that_is_no_number_is_refused(tmp_path, truth, capsys):
    rows = [(name, 0.1, 0.2, 0.7) for name in names_of()]
    rows[7] = (rows[7][0], 0.1, "nan", 0.7)
    path = table(tmp_path / "bad.csv", ("file", *CLASSES), rows)
    assert "row 9 has 'nan' in the column 'bee', not a finite number" in refused(capsys, truth, tmp_path, path)


def test_a_table_of_models_is_refused(tmp_path, truth, capsys):
    path = table(tmp_path / "bad.csv", ("model", "top1", "top1_err", "param_count"), [("resnet50", 80.1, 19.9, 25.6)])
    assert "has a row for each model, as timm's validate.py writes it" in refused(capsys, truth, tmp_path, path)


def test_names_that_fit_several_images_are_refused(tmp_path, capsys):
    truth = tmp_path / "val"
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        (truth / name).parent.mkdir(parents=True, exist_ok=True)
        (truth / name).write_bytes(b"")
    path = table(tmp_path / "bad.csv", ("file", "prediction"), [("1.jpg", "a"), ("2.jpg", "b")])
    with pytest.raises(SystemExit) as stop:
        run(truth, tmp_path, "--results", f"x={path}", f"y={path}")
    assert stop.value.code == 3
    assert "1 names fit several images of the truth" in " ".join(capsys.readouterr().err.split())


def test_networks_that_are_no_better_than_the_most_frequent_class_are_named(truth, tmp_path, capsys):
    """Half of the images are ants."""
    plain(tmp_path / "good.csv", predictions_of(1))
    plain(tmp_path / "ants.csv", np.zeros(IMAGES, int))
    files = [f"good={tmp_path}/good.csv", f"ants={tmp_path}/ants.csv"]
    main(["--task", "classification", "--truth", str(truth), "--results", *files, "--output", f"{tmp_path}/out"])
    text = "which scores 50.0 (limit: 52.5): ants."
    assert text in " ".join(capsys.readouterr().err.split()) + "."
    assert text in (tmp_path / "out/report.html").read_text()
