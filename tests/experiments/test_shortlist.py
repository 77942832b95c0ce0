"""Tests shortlists: scores against the formulas of their papers, static lists, features, hit rate and regret."""

import csv
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binomtest

from backbones.errors import BadInput, UserError
from data.batch import Batch
from experiments.corpus.rows import Corpus
from experiments.shortlist import __main__ as command
from experiments.shortlist import evidence, features, page, runner, scores, static, stored
from experiments.shortlist.config import ShortlistConfig
from experiments.shortlist.downloads import Downloads
from tests.classification.conftest import write_folders
from tests.commands import fails
from tests.experiments.test_corpus import row

LITE = "tf_efficientnet_lite0"


def direct_evidence(x, y, alpha, beta):
    """The log evidence of one target per sample, as equation 2 of arXiv:2102.11005 states it."""
    n, d = x.shape
    a = alpha * np.eye(d) + beta * x.T @ x
    m = beta * np.linalg.solve(a, x.T @ y)
    return (
        n / 2 * np.log(beta) + d / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
        - beta / 2 * np.sum((x @ m - y) ** 2) - alpha / 2 * m @ m - np.linalg.slogdet(a)[1] / 2
    ) / n  # fmt: skip


def largest_evidence(x, y):
    """The maximum over alpha and beta from two starts, with beta at most 1e8: above, sums lose too many digits."""
    found = [
        minimize(
            lambda logs: -direct_evidence(x, y, np.exp(logs[0]), np.exp(min(logs[1], 18.4))), start,
            method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000},
        )
        for start in ([0.0, 0.0], [3.0, 15.0])
    ]  # fmt: skip
    return -min(result.fun for result in found)


@pytest.mark.parametrize("n", [12, 20, 90])
def test_logme_is_the_maximum_of_the_evidence(n):
    """With fewer, as many and more images than dimensions."""
    random = np.random.default_rng(n)
    x, signal = random.normal(size=(n, 20)), random.normal(size=(20, 3))
    y = x @ signal + random.normal(scale=2.0, size=(n, 3))
    assert scores.logme(x, y) == pytest.approx(np.mean([largest_evidence(x, column) for column in y.T]), abs=1e-6)


def test_logme_of_features_that_fit_any_labels():
    """With fewer images than dimensions, the evidence of some labels rises to a limit as the noise becomes 0."""
    random = np.random.default_rng(0)
    for _ in range(8):
        x, y = random.normal(size=(20, 40)), np.eye(3)[random.integers(0, 3, 20)]
        assert scores.logme(x, y) == pytest.approx(np.mean([largest_evidence(x, column) for column in y.T]), abs=1e-6)


def test_logme_of_useless_and_perfect_features_is_finite():
    random = np.random.default_rng(0)
    y = np.eye(2)[random.integers(0, 2, 40)]
    useless, perfect = scores.logme(np.zeros((40, 5)), y), scores.logme(np.c_[y, y], y)
    assert np.isfinite([useless, perfect]).all()
    assert perfect > scores.logme(random.normal(size=(40, 5)), y) > useless - 1


@pytest.mark.parametrize("n", [12, 20, 90])
def test_h_score_is_the_formula(n):
    random = np.random.default_rng(n)
    x, labels = random.normal(size=(n, 20)), random.integers(0, 3, n)
    means = np.stack([x[labels == label].mean(0) for label in labels])
    direct = np.trace(np.linalg.pinv(np.cov(x.T, bias=True), rcond=1e-10) @ np.cov(means.T, bias=True))
    assert scores.h_score(x, labels) == pytest.approx(direct, abs=1e-6)
    if n <= 20:  # then any labels are explained
        assert scores.h_score(x, labels) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("n", [15, 40])
def test_ridge_is_the_formula_with_an_unpenalised_intercept(n):
    random = np.random.default_rng(1)
    x, y, test = random.normal(2, 1, (n, 20)), random.normal(3, 1, (n, 2)), random.normal(size=(7, 20))
    with_ones = np.c_[x, np.ones(n)]
    penalty = np.diag([*np.full(20, 0.5), 0.0])
    weights = np.linalg.solve(with_ones.T @ with_ones + penalty, with_ones.T @ y)
    expected = np.c_[test, np.ones(7)] @ weights
    np.testing.assert_allclose(scores.ridge_outputs(x, y, test, 0.5), expected, atol=1e-8)


def test_probes_equal_scikit_learn():
    pytest.importorskip("sklearn", reason="make extras installs it")
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsClassifier

    random = np.random.default_rng(2)
    labels = random.integers(0, 3, 80)
    x = random.normal(size=(80, 6)) + np.eye(3, 6)[labels]
    test = random.normal(size=(60, 6))
    outputs = scores.ridge_outputs(x, np.eye(3)[labels], test)
    np.testing.assert_allclose(outputs, Ridge(alpha=scores.RIDGE).fit(x, np.eye(3)[labels]).predict(test), atol=1e-6)
    nearest = KNeighborsClassifier(scores.NEIGHBOURS, metric="cosine", algorithm="brute").fit(x, labels)
    np.testing.assert_array_equal(scores.nearest(x, labels, test, 3), nearest.predict(test))
    model = LogisticRegression(C=1 / scores.LOGISTIC, tol=1e-8, max_iter=2000).fit(x, labels)
    np.testing.assert_array_equal(scores.logistic(x, labels, test, 3), model.predict(test))


def test_neighbours_by_hand():
    train = np.array([[1.0, 0], [2, 0.1], [3, 0], [0, 1], [0, 2], [0.1, 3], [0, 4]])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    assert scores.nearest(train, labels, np.array([[5.0, 0.2], [0.2, 5]]), 2).tolist() == [0, 1]


def test_all_scores_prefer_features_that_separate_the_classes():
    random = np.random.default_rng(0)
    labels, groups = np.tile([0, 1, 2], 40), np.repeat(np.arange(40), 3)
    noise = random.normal(size=(120, 8))
    offsets = random.normal(size=(120, 4))
    good = scores.Features(noise + 4 * np.eye(3, 8)[labels], labels, groups, 3, np.c_[noise, offsets], offsets)
    bad = scores.Features(noise, labels, groups, 3, noise, offsets)
    better, worse = scores.all_scores(good, True), scores.all_scores(bad, True)
    assert better.keys() == {"k-NN", "ridge", "logistic", "LogME", "H-score", "TLogME"}
    assert all(better[name] > worse[name] for name in better)
    assert better["k-NN"] > 0.95
    assert 0.1 < worse["ridge"] < 0.6


def test_features_of_regions_and_pixels_are_read_at_their_places():
    """A map whose values are the coordinates of its cells' centres, in pixels."""
    x, y = torch.meshgrid(torch.arange(2, 64, 4.0), torch.arange(2, 32, 4.0), indexing="xy")
    maps = [torch.stack([x, y])[None].expand(2, -1, -1, -1)]
    boxes = torch.tensor([[[8.0, 4, 24, 12], [30, 10, 50, 30]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    mask = torch.full((2, 32, 64), 255, dtype=torch.uint8)
    mask[0, 10, 21], mask[0, 20, 40] = 1, 2
    labels = torch.tensor([[1, 0], [-1, -1]])
    zeros = torch.zeros(2, 2)
    batch = Batch(torch.zeros(2, 3, 32, 64), zeros, zeros, zeros, boxes, labels, zeros, mask)
    found = features.regions(maps, batch, np.random.default_rng(0))
    real = found.labels >= 0
    assert found.labels[real].tolist() == [1, 0]
    np.testing.assert_allclose(found.values[real], [[16, 8], [40, 20]], atol=1e-4)
    assert set(found.groups.tolist()) == {0}
    assert found.offset_values.shape == (2, 2)
    # The offsets lead from the pooled region's centre to the box's centre: dx = offset * side, sides within e^0.3.
    assert np.abs(found.offsets[:, :2]).max() <= 0.3 * np.exp(0.3)
    sampled = features.pixels(maps, batch, np.random.default_rng(0))
    order = np.argsort(sampled.labels)
    assert sampled.labels[order].tolist() == [1, 2]
    np.testing.assert_allclose(sampled.values[order], [[21.5, 10.5], [40.5, 20.5]], atol=1e-4)


def test_jittered_boxes_and_background():
    random = np.random.default_rng(0)
    boxes = np.array([[10.0, 10, 30, 50], [60, 20, 80, 30]])
    moved, offsets = features.jittered(boxes, random)
    sides, centres = moved[:, 2:] - moved[:, :2], (moved[:, 2:] + moved[:, :2]) / 2
    np.testing.assert_allclose(centres + offsets[:, :2] * sides, [[20, 30], [70, 25]])
    np.testing.assert_allclose(sides * np.exp(offsets[:, 2:]), [[20, 40], [20, 10]])
    empty = features.background(boxes, (100, 200), random)
    assert len(empty) == 2
    assert (empty[:, :2] >= 0).all()
    assert (empty[:, 2] <= 200).all()
    assert len(features.background(np.array([[0.0, 0, 50, 50]]), (50, 50), random)) == 0


def test_the_static_list_of_all_backbones_takes_less_than_a_second():
    static.candidates([LITE])  # imports timm and reads the table
    started = time.perf_counter()
    found, without = static.candidates(["*"])
    assert time.perf_counter() - started < 1
    assert len(found) > 800
    assert without
    top1 = [one.top1 for one in found if one.top1 is not None]
    assert top1 == sorted(top1, reverse=True)
    assert found[-1].top1 is None


def test_candidates_by_name_tag_pattern_and_file():
    found, without = static.candidates([f"{LITE}*", "resnet50.*", "efficientnet_b8"], {"my:net": "f.pt"})
    names = [one.name for one in found]
    assert names.index("my:net") > names.index(LITE)
    assert "resnet50.a1_in1k" in names
    assert without == ["efficientnet_b8"]
    lite = next(one for one in found if one.name == LITE)
    assert (lite.top1, lite.params, lite.license) == (pytest.approx(0.74846), pytest.approx(4.65e6), "apache-2.0")
    with pytest.raises(UserError, match="Did you mean"):
        static.candidates(["resnet51"])
    with pytest.raises(UserError, match="no published weights"):
        static.candidates(["resnet50.nothing*"])


def simulated(sets=6, networks=12, noise=0.0):
    """Data sets whose networks have known scores; `good` orders them right except for the best one on set 0."""
    random = np.random.default_rng(0)
    found = []
    for number in range(sets):
        truth = {f"net{i}": 0.5 + i / 100 for i in range(networks)}
        good = {name: value + noise * random.normal() for name, value in truth.items()}
        if number == 0:
            good[f"net{networks - 1}"] = -1.0
        bad = {name: -value for name, value in truth.items()}
        found.append(evidence.Case(f"set{number}", truth, {"good": good, "bad": bad}))
    return found


def test_hit_rate_and_regret_of_a_corpus_whose_truth_is_known():
    found = {one.score: one for one in evidence.measure(simulated(), 3)}
    assert (found["good"].hits, found["good"].sets) == (5, 6)
    assert found["good"].regret == pytest.approx(0.01 / 6)
    assert (found["bad"].hits, found["bad"].regret) == (0, pytest.approx(0.09))
    assert found["chosen"].hits == 5  # the good score is the best one on the other sets, whichever is left out
    assert found["corpus"].hits == 6
    assert len(evidence.sufficient(simulated())) == 6
    assert not evidence.sufficient(simulated(sets=4))
    assert not evidence.sufficient(simulated(networks=9))


def test_lists_that_a_set_lacks_are_not_chosen():
    found = simulated(sets=3)
    del found[2].scores["good"]
    assert {one.score for one in evidence.measure(found, 3)} == {"bad", "corpus", "chosen", evidence.RANDOM}


def test_a_random_order_is_the_mean_over_all_shortlists():
    (case,) = simulated(sets=1, networks=5)
    outcomes = [evidence.outcome(case, dict.fromkeys(names, 1.0), 2) for names in combinations(case.truth, 2)]
    found = evidence.measure([case], 2)[-1]
    assert found.score == evidence.RANDOM
    assert found.hits == pytest.approx(np.mean([hit for hit, _ in outcomes]))
    assert found.regret == pytest.approx(np.mean([lost for _, lost in outcomes]))


def test_equal_values_come_in_random_order():
    """The mean over all orders that a list with ties allows."""
    truth = {"a": 0.9, "b": 0.5, "c": 0.8, "d": 0.6, "e": 0.7}
    values = {"b": 3.0, "a": 2.0, "c": 2.0, "d": 2.0}  # e has none and is last
    case = evidence.Case("set", truth, {})
    for k, lists in (
        (1, ["b"]), (2, ["ba", "bc", "bd"]), (3, ["bac", "bad", "bcd"]), (4, ["bacd"]), (5, ["abcde"]), (9, ["abcde"])
    ):  # fmt: skip
        reached = [max(truth[name] for name in names) for names in lists]
        expected = np.mean([score == 0.9 for score in reached]), np.mean([0.9 - score for score in reached])
        assert evidence.outcome(case, values, k) == pytest.approx(expected)
    assert evidence.mean_ranks([evidence.Case("set", {"a": 0.5, "b": 0.5, "c": 0.1}, {})]) == {
        "a": 0.75, "b": 0.75, "c": 0.0
    }  # fmt: skip


def test_the_interval_of_a_hit_rate_is_exact():
    """Clopper and Pearson: 5 of 5 may be chance 0.478, whose 5th power is 0.025."""
    low, high = evidence.Measured("list", 5, 0.0, 5).interval
    assert (low, high) == (pytest.approx(0.025**0.2), 1.0)
    expected = binomtest(2, 7).proportion_ci(0.95, method="exact")
    assert evidence.Measured("list", 2, 0.0, 7).interval == pytest.approx((expected.low, expected.high))


def test_a_chance_is_that_of_sets_with_enough_networks():
    """Sets with as many networks as the list is long are hit by every list."""
    small = [evidence.Case(f"set{i}", {f"net{2 * i}": 0.5, f"net{2 * i + 1}": 0.6}, {}) for i in range(5)]
    assert not evidence.sufficient(small)  # though there are ten networks in all
    assert evidence.counts(small) == "5 data sets with 2 pretrained networks each"
    assert [case.set for case in evidence.sufficient([*simulated(), *small])] == [f"set{i}" for i in range(6)]


def test_the_page_of_a_small_corpus_says_too_little_data(tmp_path):
    rows = [
        row(0, backbone=LITE, score=0.5),
        row(1, backbone="resnet18", score=0.4),
        row(2, backbone="vgg16", score=0.9),
    ]
    values = {LITE: 3.0, "resnet18": 2.0, "vgg16": 1.0}
    text = page.text(rows, [scored(name, {"LogME": value}) for name, value in values.items()])
    assert "## detection, `finetune`" in text
    assert "Pretrained networks: 3 on bccd." in text
    assert "Too little data" in text
    assert "| LogME | 0 of 1 | 0 of 1 | 1 of 1 | +40.0 | +40.0 | +0.0 |" in text
    assert "| random order | 0.333 of 1 | 0.667 of 1 | 1 of 1 |" in text
    assert "LogME" not in page.text(rows, [])  # the static list needs no features
    assert "| static | 0 of 1 |" in page.text(rows, [])
    config = ShortlistConfig(corpus=str(tmp_path), measured=str(tmp_path / "docs/page.md"))
    assert runner.shortlist(config, []) == []
    assert "No data set" in (tmp_path / "docs/page.md").read_text()


def scored(name, values, fingerprint="t", digest="a" * 64):
    return stored.Scored("detection", "bccd", fingerprint, name, "timm:x", digest, 10, "64x64", values, 1.0)


def test_cases_join_rows_and_scores_of_the_same_data_and_weights(tmp_path):
    rows = [
        row(i, backbone=name, seed=seed, score=score, params=number)
        for i, (name, seed, score, number) in enumerate([(LITE, 0, 0.5, 3), (LITE, 1, 0.7, 3), ("resnet18", 0, 0.4, 9)])
    ]
    rows += [row(9, backbone="resnet18", recipe=99), row(10, backbone="resnet18", protocol="frozen", score=0.1)]
    rows += [row(11, backbone="vgg16", score=0.9, conditions="c" * 64)]  # another budget of fewer networks
    corpus = Corpus(tmp_path)
    stored.record(corpus, [scored(LITE, {"LogME": 1.0}), scored("resnet18", {"LogME": 2.0}), scored("vgg16", {}, "x")])
    (case,) = evidence.cases(rows, stored.read(tmp_path), "detection", "finetune")
    assert case.truth == {LITE: pytest.approx(0.6), "resnet18": 0.4}
    assert case.scores["LogME"] == {LITE: 1.0, "resnet18": 2.0}
    assert case.scores["size"] == {LITE: 3, "resnet18": 9}
    assert case.scores["static"][LITE] == pytest.approx(0.74846)
    mine = [
        replace(one, weights="file:net.pt", weights_sha256="b" * 64) if one.backbone == "resnet18" else one
        for one in rows
    ]
    (case,) = evidence.cases(mine, stored.read(tmp_path), "detection", "finetune")
    assert "LogME" not in case.scores
    assert case.scores["static"]["resnet18"] == float("-inf")
    stored.record(corpus, [scored(LITE, {"LogME": 3.0})])
    assert [one.scores.get("LogME") for one in stored.read(tmp_path)] == [3.0, 2.0, None]
    for damage in ("task,set\na,b\n", (tmp_path / stored.FILE).read_text().replace("3.000000", "nan")):
        (tmp_path / stored.FILE).write_text(damage)
        with pytest.raises(BadInput, match="not a table of scores"):
            stored.read(tmp_path)


def test_scores_of_several_processes_are_all_kept(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: stored.record(Corpus(tmp_path), [scored(f"net{i}", {"LogME": 1.0})]), range(16)))
    assert len(stored.read(tmp_path)) == 16


def test_downloads_of_the_worst_candidates_are_deleted_first(tmp_path, monkeypatch, caplog):
    urls = {name: SimpleNamespace(url=f"https://host/{name}.bin", hf_hub_id="me/net") for name in "abc"}
    monkeypatch.setattr("experiments.shortlist.downloads.pretrained_config", urls.get)
    monkeypatch.setattr("experiments.shortlist.downloads.weights_folder", lambda: tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "before.bin").write_bytes(bytes(1000))
    downloads = Downloads(250)
    for name in ("a", "b", "c"):
        with downloads.of(name):
            (tmp_path / f"{name}.bin").write_bytes(bytes(100))
            (tmp_path / f"of-another-process-{name}.bin").write_bytes(bytes(100))
    assert downloads.size == 300
    assert downloads.trim(["b", "c", "a"]) == ["a"]
    assert "--cache_gb" in caplog.text
    left = {file.name for file in tmp_path.iterdir() if "another" not in file.name}
    assert left == {"before.bin", "b.bin", "c.bin"}
    downloads.limit = 0
    assert downloads.trim(["b"]) == ["c", "b"]  # c is not in the ranking
    assert len(list(tmp_path.iterdir())) == 4
    with downloads.of("a"):
        blob = tmp_path / "hub/models--me--net/blobs/1"
        blob.parent.mkdir(parents=True)
        blob.write_bytes(bytes(10))
    assert downloads.trim([]) == ["a"]
    assert not blob.exists()


@pytest.fixture
def settings(tmp_path):
    return ShortlistConfig(
        backbones=[LITE], weights=["resnet10t=absent.pt"], image_size=32, device="cpu", images=12, first=1,
        output=str(tmp_path / "out"), corpus=str(tmp_path / "results"), record=True,
    )  # fmt: skip


def test_the_command_scores_reports_failures_and_resumes(settings, tmp_path, capsys, caplog, monkeypatch):
    root = str(write_folders(tmp_path / "data", train=4, val=1))
    (tmp_path / "absent.pt").write_bytes(b"no weights")
    config = replace(settings, weights=[f"resnet10t={tmp_path / 'absent.pt'}"])
    words = ["--data.root", root, "--data.workers", "0"]
    assert runner.shortlist(config, words) == [LITE]
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 candidates could not be scored" in caplog.text
    assert "too little data (0 data sets with no pretrained networks each" in shown
    assert "74.8" in shown
    (one,) = stored.read(tmp_path / "results")
    assert (one.backbone, one.set, one.images, set(one.scores)) == (LITE, "data", 12, set(stored.SCORES) - {"TLogME"})

    def never(*arguments):
        raise AssertionError("scored again")

    monkeypatch.setattr(features, "compute", never)
    compared = []
    monkeypatch.setattr("experiments.compare.__main__.main", compared.append)
    again = replace(config, weights=[], then="compare")
    assert runner.shortlist(again, words) == [LITE]
    assert compared[0][:4] == ["--tasks", "classification", "--backbones", LITE]
    assert compared[0][-4:] == ["--data.classification.root", root, "--data.classification.workers", "0"]
    assert compared[0][compared[0].index("--corpus") + 1] == config.corpus


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("out of memory\nTried to"), "RuntimeError: out of memory"),
        (ValueError("array must not contain infs"), "ValueError: array must"),
        (BadInput("the features are not finite numbers"), "not finite"),
    ],
)
def test_a_candidate_that_fails_does_not_stop_the_others(settings, tmp_path, monkeypatch, caplog, error, message):
    compute = features.compute

    def failing(task, config, images):
        if config.backbone == "tf_efficientnet_lite1":
            raise error
        return compute(task, config, images)

    monkeypatch.setattr(features, "compute", failing)
    root = str(write_folders(tmp_path / "data", train=4, val=1))
    config = replace(settings, weights=[], backbones=["tf_efficientnet_lite1", LITE], first=2)
    assert runner.shortlist(config, ["--data.root", root, "--data.workers", "0"]) == [LITE]
    assert message in caplog.text


def test_the_list_by_size_by_the_corpus_and_by_the_best_list(settings, tmp_path, capsys, caplog):
    names = [LITE, "tf_efficientnet_lite1", "tf_efficientnet_lite2"]
    config = replace(settings, weights=[], backbones=names, score=False, task="detection", first=3)
    for rank_by in ("corpus", "chosen"):  # refused before anything is computed
        with pytest.raises(UserError, match="needs a corpus"):
            runner.shortlist(replace(config, rank_by=rank_by, score=True), [])
    corpus = Corpus(tmp_path / "results")
    for key, (name, score) in enumerate(zip(names[:2], (0.6, 0.5), strict=True)):
        corpus.add(row(key, backbone=name, score=score, params=10 - key))
    size = ["tf_efficientnet_lite2", "tf_efficientnet_lite1", LITE]
    assert runner.shortlist(replace(config, rank_by="size"), []) == size
    assert runner.shortlist(replace(config, rank_by="corpus"), []) == names
    assert "no trainings in the corpus, so these come last: tf_efficientnet_lite2" in caplog.text
    (tmp_path / "mine.pt").write_bytes(b"weights")
    mine = replace(config, rank_by="corpus", weights=[f"{LITE}={tmp_path / 'mine.pt'}"], backbones=names[1:])
    assert runner.shortlist(mine, []) == [names[1], names[2], LITE]  # the corpus has other weights of this network
    digest = hashlib.sha256(b"weights").hexdigest()
    corpus.add(row(9, backbone=LITE, weights="file:mine.pt", weights_sha256=digest, score=0.9))
    assert runner.shortlist(mine, []) == [LITE, names[1], names[2]]
    assert runner.shortlist(replace(config, rank_by="corpus"), []) == names
    assert runner.shortlist(replace(config, rank_by="chosen", first=1), []) == [size[0]]
    assert "size had the lowest regret" in caplog.text
    table = list(csv.DictReader((tmp_path / "out/static.csv").open()))
    assert [one["backbone"] for one in table] == size
    assert "tf_efficientnet_lite2" in capsys.readouterr().out


def test_networks_are_filtered_by_size(settings):
    config = replace(settings, weights=[], backbones=["tf_efficientnet_lite[0-4]"], max_params=6.0)
    assert [one.name for one in runner.listed(config)] == ["tf_efficientnet_lite1", LITE]
    with pytest.raises(UserError, match="no candidate is left"):
        runner.listed(replace(config, max_params=1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "pose"], "there are classification"),
        (["--first", "0"], "--first 0 is too small"),
        (["--rank_by", "TLogME"], "--rank_by TLogME"),
        (["--protocol", "scratch"], "ranks networks by their weights"),
        (["--weights", "net"], "expected BACKBONE=FILE"),
        (["--backbones", "resnet51"], "Did you mean"),
        (["--segmentation.epochs", "2"], "there are settings for segmentation"),
        (["--cache_gb", "0"], "--cache_gb 0 is too small"),
    ],
)
def test_wrong_usage_is_one_message(capsys, arguments, message):
    assert message in fails(capsys, 2, command, *arguments)
