"""Tests the corpus: rows checked and kept apart, gaps trained in order within the time, and the page made from them."""

import csv
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import BadInput, UserError
from experiments.corpus import __main__ as corpus_command
from experiments.corpus import fill as filling
from experiments.corpus import page
from experiments.corpus.add import UnusableRun, add_run, command_of, resamples_of, same_command
from experiments.corpus.config import FillConfig, PageConfig
from experiments.corpus.groups import comparable, duels, grouped, network_names, one_for_each_set
from experiments.corpus.plan import PlannedCell, read_plan
from experiments.corpus.rows import SCHEMA, Corpus, CorpusRow
from experiments.jobs.cell import Cell
from experiments.jobs.local import COMPLETE, Outcome
from experiments.report.results import FinishedRun
from experiments.statistics.images import Resampled
from experiments.statistics.signed_rank import signed_rank
from experiments.statistics.variance import score_half_width
from experiments.tasks import TASKS
from tests.classification.conftest import write_folders
from tests.commands import fails

FINISHED = Path(__file__).parents[1] / "fixtures/v1/comparison/cells/classification/test_efficientnet-s0-48618b3d"


def row(key=0, **changes):
    values = {
        "schema": SCHEMA, "set": "bccd", "task": "detection", "backbone": "resnet18", "protocol": "finetune", "seed": 0,
        "metric": "AP", "score": 0.5, "majority_score": 0.0, "pretraining": "supervised", "weights": "timm:x",
        "weights_sha256": "a" * 64, "weights_license": "mit", "epochs": 3, "batch_size": 8, "image_size": "64x64",
        "tune": 0, "recipe": TASKS[changes.get("task", "detection")].recipe,
        "params": 10, "macs": 1e6, "latency_ms": 1.0, "peak_memory_mb": 2.0, "train_seconds": 3.0, "device": "cpu",
        "versions": "torch 2", "git_commit": "", "date": "2026-11-26", "train_fingerprint": "t", "val_fingerprint": "v",
        "conditions": "b" * 64, "key": f"{key:016x}{0:048x}",
        "command": "python -m detection.train --data.root DATA/bccd",
    }  # fmt: skip
    if changes.get("protocol") == "scratch" or changes.get("weights") == "random":
        values["pretraining"] = "random"
    return CorpusRow(**(values | changes))


def test_rows_survive_the_file_and_a_key_is_added_once(tmp_path):
    corpus = Corpus(tmp_path / "results")
    assert corpus.rows() == []
    assert corpus.add(row(1, command='a "b", c', latency_ms=float("nan"))) is None
    assert corpus.add(row(1, score=0.9)).score == 0.5
    (stored,) = corpus.rows()
    assert (stored.command, stored.score) == ('a "b", c', 0.5)
    assert stored.latency_ms != stored.latency_ms


def test_rows_of_several_writers_are_all_kept(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: Corpus(tmp_path).add(row(key)), range(24)))
    assert {stored.key for stored in Corpus(tmp_path).rows()} == {f"{key:016x}{0:048x}" for key in range(24)}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", "58.1", "not a fraction in 0..1"),
        ("score", "high", "score is 'high', not a number"),
        ("task", "pose", "the task 'pose' is unknown"),
        ("metric", "top1", "has no metric 'top1'"),
        ("schema", "9", "its schema is 9"),
        ("key", "12", "not a SHA-256"),
        ("epochs", "0", "not at least 1"),
        ("train_seconds", "inf", "not a number of at least 0"),
        ("val_fingerprint", "", "val_fingerprint is empty"),
        ("protocol", "zero-shot", "the protocol 'zero-shot' is unknown"),
        ("seed", "-3", "seed is -3"),
        ("date", "yesterday", "not a day such as"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, column, value, message):
    corpus = Corpus(tmp_path)
    for key in range(2):
        corpus.add(row(key))
    rows = list(csv.DictReader(corpus.file.open()))
    rows[1][column] = value
    with corpus.file.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(BadInput, match=rf"row 3: .*{message}"):
        corpus.rows()


def test_missing_columns_and_repeated_keys_are_named(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add(row(1))
    text = corpus.file.read_text()
    corpus.file.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(BadInput, match="another row has the same key"):
        corpus.rows()
    corpus.file.write_text("set,task\nbccd,detection\n")
    with pytest.raises(BadInput, match="it has no column schema, backbone"):
        corpus.rows()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"set,\xff\n", "is not a text file"), (b"set,task\nbccd", "ends in the middle of a row"),
     (b"set\n" + b"x" * 200_000 + b"\n", "row 2: field larger than")],
)  # fmt: skip
def test_damaged_files_are_one_message(tmp_path, content, message):
    corpus = Corpus(tmp_path)
    corpus.file.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        corpus.rows()
    (tmp_path / "plan.yaml").write_bytes(b"seeds: \xff")
    with pytest.raises(BadInput, match="is not a text file"):
        read_plan(tmp_path / "plan.yaml")


def test_damaged_resamples_are_one_message(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add(row(1), Resampled(3, (None,), np.zeros(1), np.zeros((1, 4)), np.zeros((1, 3))))
    (file,) = (tmp_path / "resamples").iterdir()
    whole, random = file.read_bytes(), np.random.default_rng(0)
    broken = []
    for position in random.integers(0, 8 * len(whole), 200):
        bits = np.unpackbits(np.frombuffer(whole, np.uint8))
        bits[position] ^= 1
        broken.append(np.packbits(bits).tobytes())
    outcomes = []
    for content in (b"", whole[:40], *broken):
        file.write_bytes(content)
        try:
            outcomes.append(str(corpus.resamples(corpus.rows())))
        except BadInput as error:
            outcomes.append("damaged" if "npz is damaged" in str(error) else str(error))
    assert outcomes[:2] == ["damaged"] * 2
    assert outcomes.count("damaged") > 50


def test_a_full_disk_is_one_message(tmp_path):
    (tmp_path / "resamples").write_text("a file in place of the folder")
    with pytest.raises(BadInput, match="cannot be written"):
        Corpus(tmp_path).add(row(1), resampled(0.0))
    assert Corpus(tmp_path).rows() == []


def test_conditions_are_those_that_networks_share(tmp_path):
    root = str(write_folders(tmp_path / "data", train=2, val=1))
    base = ("--data.root", root, "--epochs", "2", "--image_size", "32")
    one = Cell("classification", (*base, "--backbone", "resnet18"))
    other = Cell("classification", (*base, "--backbone", "efficientnet_b0", "--seed", "3", "--pretrained", "false"))
    assert one.conditions == other.conditions
    assert one.key != other.key
    assert Cell("classification", (*base, "--epochs", "3")).conditions != one.conditions
    (tmp_path / "data/val/green/0.png").unlink()
    moved = shutil.copytree(root, tmp_path / "moved")
    changed = Cell("classification", ("--data.root", str(moved), *base[2:], "--backbone", "resnet18"))
    assert changed.conditions != one.conditions


def test_commands_name_no_folder_of_this_machine():
    words = ("--epochs", "3", "--data.root", "/home/me/sets/bccd", "--backbone", "my:net", "--pretrained", "/w/net.pt")
    cell = Cell("detection", (*words, "--epochs=4", "--device", "cpu", "--seed", "1"))
    assert command_of(cell) == (
        "python -m detection.train --data.root DATA/bccd --backbone my:net --pretrained net.pt --epochs 4 --seed 1"
    )
    assert "DATA/a/b " in command_of(cell, "a/b")
    words = ("--data.train", "/x/bccd/train.json:/x/bccd/images", "--data.val", "auto", "--config", __file__)
    assert command_of(Cell("detection", words)) == (
        "python -m detection.train --data.train DATA/train.json:DATA/images --data.val auto --config test_corpus.py"
    )


PLAN = """
seeds: 2
networks: {pretrained: [tf_efficientnet_lite0], scratch: [resnet18]}
sets:
  - {name: new, folder: new, task: classification, added: 2026-12-01, protocols: {scratch: {networks: scratch}}}
  - name: old
    folder: old
    task: classification
    added: 2026-11-01
    arguments: --image_size 32 --epochs 1
    protocols:
      finetune: {networks: pretrained}
      scratch: {networks: scratch, arguments: --epochs 2}
"""


def test_the_oldest_gaps_come_first(tmp_path):
    (tmp_path / "plan.yaml").write_text(PLAN)
    planned = read_plan(tmp_path / "plan.yaml", {"my:net": "file"})
    assert [(cell.set, cell.protocol, cell.backbone, cell.seed) for cell in planned] == [
        ("old", "finetune", "tf_efficientnet_lite0", 0), ("old", "finetune", "my:net", 0),
        ("old", "scratch", "resnet18", 0),
        ("old", "finetune", "tf_efficientnet_lite0", 1), ("old", "finetune", "my:net", 1),
        ("old", "scratch", "resnet18", 1),
        ("new", "scratch", "resnet18", 0), ("new", "scratch", "resnet18", 1),
    ]  # fmt: skip
    assert planned[2].arguments == ("--image_size", "32", "--epochs", "1", "--epochs", "2")
    for before, after, message in (
        ("2026-11-01", "soon", "not a date"),
        ("task: classification, ", "", "the field 'task' is missing"),
        ("folder: old", "place: old", "a set has the unknown fields place"),
        ("{networks: pretrained}", "{networks: pretrained, argument: --epochs 9}", "finetune has the unknown fields"),
        ("seeds: 2", "seeds: 0", "`seeds` is 0"),
        ("seeds: 2", "seeds: 2\nsize: 3", "the plan has the unknown fields size"),
        ("[tf_efficientnet_lite0]", "tf_efficientnet_lite0", "not a list of names"),
        ("finetune: ", "finetuned: ", "the protocol 'finetuned' is unknown"),
        ("--image_size 32", "--data.root elsewhere", "--data.root cannot stand"),
        ("[resnet18]", "[resnet18, resnet18]", "resnet18 is listed twice"),
        ("folder: old", "folder: 2024", "`folder` of a set is 2024, not a text"),
        ("protocols: {scratch: {networks: scratch}}", "protocols: ", "`protocols` of new is None"),
        ("--image_size 32 --epochs 1", "", "nothing"),
        (PLAN, "", "the plan is None, not a mapping"),
        ("networks: pretrained}", "networks: all}", "group of networks 'all'"),
        ("--image_size 32", "--seed 3", "--seed cannot stand"),
    ):
        (tmp_path / "plan.yaml").write_text(PLAN.replace(before, after, 1))
        if message == "nothing":  # empty arguments, which shlex would read from the standard input
            assert read_plan(tmp_path / "plan.yaml")[0].arguments == ()
            continue
        with pytest.raises(BadInput, match=message):
            read_plan(tmp_path / "plan.yaml")


@pytest.fixture
def settings(tmp_path):
    """Settings of `fill` for the old set of the plan; the new one is absent."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    write_folders(tmp_path / "data/old", train=2, val=1)
    places = {name: str(tmp_path / name) for name in ("data", "corpus", "output")}
    return FillConfig(**places, plan=str(tmp_path / "plan.yaml"), device="cpu")


def stub(monkeypatch, trained, failing=(), seconds=0.0, complete=True):
    """Trainings that copy a finished run, and are stopped where they take too long."""

    def run(cell, folder, lock, trainings):
        trained.append((cell.config.protocol, cell.config.seed))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if trainings._ended:
                raise KeyboardInterrupt
            time.sleep(0.01)
        if cell.config.protocol in failing:
            folder.parent.mkdir(parents=True, exist_ok=True)
            return Outcome(1.0, "no memory", 1)
        shutil.copytree(FINISHED, folder, dirs_exist_ok=True)
        (folder / COMPLETE).write_text(f'{{"key": "{cell.key}", "seconds": 1.0}}')
        if not complete:
            raise KeyboardInterrupt
        return Outcome(1.0)

    monkeypatch.setattr(filling, "run", run)


def test_gaps_are_filled_once_and_failures_are_tried_again_last(settings, monkeypatch, caplog, capsys):
    trained = []
    stub(monkeypatch, trained, failing=("finetune",))
    with pytest.raises(BadInput, match=r"(?s)2 of the trainings failed.*no memory"):
        filling.fill(settings)
    assert "lacks new: their trainings are left out" in caplog.text
    assert trained == [("finetune", 0), ("scratch", 0), ("finetune", 1), ("scratch", 1)]
    rows = Corpus(Path(settings.corpus)).rows()
    assert [(stored.set, stored.protocol, stored.seed, stored.epochs) for stored in rows] == [
        ("old", "scratch", 0, rows[0].epochs), ("old", "scratch", 1, rows[0].epochs)
    ]  # fmt: skip
    assert len({stored.conditions for stored in rows}) == 1
    assert rows[0].command.endswith("--data.root DATA/old --backbone resnet18 --seed 0")
    trained.clear()
    stub(monkeypatch, trained)
    filling.fill(replace(settings, dry_run=True))
    assert capsys.readouterr().out.endswith("classification/old/finetune/tf_efficientnet_lite0, seed 1\n")
    filling.fill(settings)
    assert trained == [("finetune", 0), ("finetune", 1)]
    filling.fill(replace(settings, dry_run=True))
    assert capsys.readouterr().out.endswith("no training is missing\n")
    filling.fill(settings)
    assert len(trained) == 2


def test_the_time_budget_stops_the_training_in_progress(settings, monkeypatch):
    trained = []
    stub(monkeypatch, trained, seconds=30.0)
    corpus, output = Corpus(Path(settings.corpus)), Path(settings.output)
    gaps = iter(list(filling.gaps(settings, corpus, read_plan(Path(settings.plan))[:2])))
    started = time.monotonic()
    assert filling._train_all(gaps, corpus, output, started + 0.3, None) == {}
    assert time.monotonic() - started < 10
    assert trained == [("finetune", 0)]
    assert corpus.rows() == []


def test_a_training_that_finished_before_a_kill_is_not_trained_again(settings, monkeypatch):
    trained = []
    stub(monkeypatch, trained, complete=False)
    with pytest.raises(KeyboardInterrupt):
        filling.fill(settings)
    stub(monkeypatch, trained)
    filling.fill(settings)
    assert trained == [("finetune", 0), ("scratch", 0), ("finetune", 1), ("scratch", 1)]
    assert len(Corpus(Path(settings.corpus)).rows()) == 4


def damage_score(folder):
    record = json.loads((folder / "record.json").read_text())
    record["metrics"]["top1"] = None
    (folder / "record.json").write_text(json.dumps(record))


def change_score(folder):
    record = json.loads((folder / "record.json").read_text())
    record["metrics"]["top1"] = 0.123
    (folder / "record.json").write_text(json.dumps(record))


def cut_images(folder):
    lines = (folder / "images.csv").read_text().splitlines(keepends=True)
    (folder / "images.csv").write_text("".join(lines[:4]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_score, "score is nan"),
        (lambda folder: (folder / "images.csv").write_text("nothing"), "they name no image"),
        (cut_images, "it has results of 3 images instead of"),
        (change_score, "its results by image have the top1"),
        (lambda folder: (folder / "record.json").write_text("{}"), "its record lacks 'task'"),
        (lambda folder: (folder / COMPLETE).write_text("{"), "complete.json is damaged"),
    ],
)
def test_a_damaged_run_is_reported_and_the_others_go_on(settings, monkeypatch, damage, message):
    trained = []
    stub(monkeypatch, trained, complete=False)
    with pytest.raises(KeyboardInterrupt):
        filling.fill(settings)
    damage(next(Path(settings.output).glob("cells/*/*-s0-*/")))
    stub(monkeypatch, trained)
    for _ in range(2):
        with pytest.raises(BadInput, match=rf"(?s)1 of the trainings failed.*{message}"):
            filling.fill(settings)
        assert len(Corpus(Path(settings.corpus)).rows()) == 3
    assert len(trained) == 4


def test_a_wrong_folder_and_settings_that_are_refused(settings, monkeypatch):
    trained = []
    stub(monkeypatch, trained)
    plan = Path(settings.plan)
    plan.write_text(PLAN.replace("--image_size 32", "--image_sise 32"))
    with pytest.raises(UserError, match=r"plan.yaml: classification/old/finetune.*image_sise"):
        filling.fill(settings)
    assert trained == []
    plan.write_text(PLAN)
    with pytest.raises(BadInput, match="elsewhere has none of the folders new, old"):
        filling.fill(replace(settings, data=str(Path(settings.data) / "elsewhere")))
    assert trained == []


def test_results_by_image_are_needed_once(tmp_path):
    folder, corpus = shutil.copytree(FINISHED, tmp_path / "run"), Corpus(tmp_path / "corpus")
    write_folders(tmp_path / "data", train=2, val=1)
    cell = Cell("classification", ("--data.root", str(tmp_path / "data")))
    images = (folder / "images.csv").read_bytes()
    (folder / "images.csv").unlink()
    with pytest.raises(UnusableRun, match="has no results by image"):
        add_run(corpus, cell, folder)
    (folder / "images.csv").write_bytes(images)
    add_run(corpus, cell, folder)
    (folder / "images.csv").unlink()
    add_run(corpus, cell, folder)
    assert len(corpus.rows()) == 1


def test_images_that_were_skipped_may_be_absent(tmp_path):
    folder = shutil.copytree(FINISHED, tmp_path / "run")
    lines = (folder / "images.csv").read_text().splitlines(keepends=True)
    (folder / "images.csv").write_text("".join(lines[:-1]))
    record = json.loads((folder / "record.json").read_text())
    run = FinishedRun.of(folder)
    record["metrics"]["top1"] = float(run.images.score(np.ones((1, len(lines) - 2), np.int64))[0])
    for skipped in (1, 0):
        record["config"]["data"]["skip_bad"] = skipped
        (folder / "record.json").write_text(json.dumps(record))
        if skipped:
            resamples_of(FinishedRun.of(folder))
        else:
            with pytest.raises(ValueError, match="it has results of"):
                resamples_of(FinishedRun.of(folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill"], "--data is missing"),
        (["fill", "--data", ".", "--minutes", "0"], "--minutes 0 is too short"),
        (["fill", "--data", ".", "--weights", "net"], "expected BACKBONE=FILE"),
        (["fill", "--data", ".", "--plan", "absent.yaml"], "absent.yaml cannot be read"),
        (["fill", "--data", ".", "--sets", "nothing"], "the plan has no such data sets"),
        (["page", "--corpus", "absent"], "has no rows"),
        ([], "usage: python -m experiments.corpus fill | page"),
    ],
)
def test_wrong_usage_is_one_message(capsys, arguments, message):
    code = 3 if "absent" in " ".join(arguments) else 2
    assert message in fails(capsys, code, corpus_command, *arguments)


def resampled(shift, seed=0):
    scores = np.clip(0.5 + shift + np.random.default_rng(seed).normal(0, 0.01, 200), 0, 1)[None]
    return Resampled(200, (None,), np.array([0.5 + shift]), scores, scores)


def test_only_rows_of_the_same_conditions_are_compared(tmp_path):
    corpus = Corpus(tmp_path)
    for seed in range(3):
        for i, shift in enumerate((0.0, 0.2)):
            one = row(10 * seed + i, backbone=f"net{i}", seed=seed, score=0.5 + shift + seed / 1000)
            corpus.add(one, resampled(shift, i))
        corpus.add(row(10 * seed + 5, backbone="net0", seed=seed, score=0.9, conditions="c" * 64))
    first, second = grouped(corpus, corpus.rows())
    assert [entry.network for entry in first.entries] == ["net1", "net0"]
    assert first.entries[1].difference.value == pytest.approx(-0.2)
    assert first.entries[1].difference.verdict == "worse", first.entries[1].difference.reason
    assert first.entries[1].difference.seeds == (3, 3)
    assert [(entry.network, len(entry.rows), entry.difference) for entry in second.entries] == [("net0", 3, None)]
    trainings = {entry.network: entry.rows for entry in first.entries}
    assert duels([trainings]) == []  # one data set is no evidence across data sets
    (duel,) = duels([trainings, trainings, trainings])
    assert (duel.first, duel.second, duel.wins, duel.losses, duel.across.sets) == ("net1", "net0", 3, 0, 3)


def test_signed_rank_by_hand():
    """One difference d > 2 rope: the pairs of prior and data vote for better unless the prior's weight w is too large.

    Better has the votes 1 - w^2, equal has w^2. With w ~ Beta(s, 1), P(w^2 < 1/2) = (1/2)^(s/2), here s = 0.6.
    """
    one = signed_rank([0.05], draws=400_000)
    assert one.better == pytest.approx(0.5**0.3, abs=0.003)
    assert one.equal == pytest.approx(1 - 0.5**0.3, abs=0.003)
    assert one.worse == 0
    mirrored = signed_rank([-0.05], draws=400_000)
    assert (mirrored.worse, mirrored.equal) == (one.better, one.equal)
    # A difference between rope and 2 rope: paired with the prior its mean is within rope. Better needs (1 - w)^2 > 1/2.
    assert signed_rank([0.015], draws=400_000).better == pytest.approx((1 - 0.5**0.5) ** 0.6, abs=0.003)
    assert signed_rank([0.004, -0.003, 0.0]).equal == 1
    assert signed_rank([0.05] * 8).better > 0.99
    even = signed_rank([0.05, -0.05] * 4)
    assert even.better == pytest.approx(even.worse, abs=0.02)
    with pytest.raises(ValueError, match="no differences"):
        signed_rank([])


def planned_row(key, place, backbone, score, **changes):
    """A row of the plan's `finetune`: with the command that `fill` stores, its flags in another order."""
    file = "--pretrained net.pt " if backbone == "my:net" else ""
    command = (
        f"python -m detection.train --epochs 1 --protocol finetune --image_size 32 --data.root DATA/{place} "
        f"--backbone {backbone} {file}--seed 0"
    )
    weights = "file:net.pt" if backbone == "my:net" else "packaged:x"
    conditions = f"{sum(map(ord, place)):064x}"
    values = {"set": place, "backbone": backbone, "score": score, "weights": weights, "conditions": conditions}
    values["train_fingerprint"] = f"files of {place}"
    return row(key, **values | {"command": command} | changes)


def page_of(tmp_path, rows, plan=PLAN):
    corpus = Corpus(tmp_path / "results")
    for one, of_images in rows:
        corpus.add(one, of_images)
    (tmp_path / "plan.yaml").write_text(plan.replace("name: old", "name: bccd").replace("folder: old", "folder: bccd"))
    config = PageConfig(str(corpus.folder), str(tmp_path / "plan.yaml"), str(tmp_path / "docs/corpus.md"))
    return page.write(config).read_text()


DETECTION = PLAN.replace("classification", "detection")


def test_the_page_has_rankings_wins_and_gaps(tmp_path):
    rows = [
        (planned_row(10 * i + j, name, backbone, score), resampled(score - 0.5, j))
        for i, name in enumerate(("bccd", "neu"))
        for j, (backbone, score) in enumerate((("tf_efficientnet_lite0", 0.6), ("my:net", 0.5)))
    ]
    text = page_of(tmp_path, [*rows, (row(99, set="bccd", recipe=99), None)], DETECTION)
    assert "1 row of another version of the recipe is not shown" in " ".join(text.split())
    assert "| `finetune` | tf_efficientnet_lite0 | 1 | 60.0 (58.1 to 61.9) | best |" in text
    assert "| too little data: one training each |" in text
    assert "| `finetune` | tf_efficientnet_lite0 | my:net | 2 | 2 | 0 | too little data |" in text
    assert "| bccd: detection | tf_efficientnet_lite0 60.0 |" in text
    assert "| detection | bccd | `finetune` | tf_efficientnet_lite0, my:net | 1 |" in text
    assert "| detection | new | `scratch` | resnet18 | 0, 1 |" in text
    assert "Results of 4 trainings" in text
    assert "2 of 8 planned trainings are finished" in text
    assert 'make corpus DATA=FOLDER MINUTES=60 WEIGHTS="my:net=FILE"' in text
    assert "<svg" in (tmp_path / "docs/pictures/corpus-macs.svg").read_text()
    assert page_of(tmp_path, [], DETECTION) == text


def test_rows_of_another_budget_do_not_finish_the_plan_and_count_once_across_sets(tmp_path):
    rows = []
    for key, (backbone, score) in enumerate((("tf_efficientnet_lite0", 0.6), ("vgg16", 0.5))):
        for epochs in (3, 30):
            command = f"python -m detection.train --protocol finetune --epochs {epochs} --data.root DATA/bccd"
            one = planned_row(
                100 * key + epochs, "bccd", backbone, score, epochs=epochs, command=command,
                conditions=f"{epochs:064x}",
            )  # fmt: skip
            rows.append((one, resampled(score - 0.5, key)))
    text = page_of(tmp_path, rows, DETECTION)
    assert "0 of 6 planned trainings are finished" in text
    assert "| `finetune`, 30 epochs at 64x64 px, batch size 8 | vgg16 |" in text
    assert "## Wins and losses" not in text  # one data set is no evidence across data sets


def test_groups_in_which_nothing_was_learned_do_not_count(tmp_path):
    rows = [
        (planned_row(10 * i + j, name, backbone, score / 20), resampled(score / 20 - 0.5, j))
        for i, name in enumerate(("bccd", "neu", "more"))
        for j, (backbone, score) in enumerate((("tf_efficientnet_lite0", 0.6), ("vgg16", 0.5)))
    ]
    text = page_of(tmp_path, rows, DETECTION)
    assert "No network reaches 5.0 with `finetune`" in text
    assert "| bccd: detection | none reaches 5.0 |" in text
    assert "## Wins and losses" not in text


def test_a_score_of_the_most_frequent_class_is_nothing_learned(tmp_path):
    """Seven of ten images of the set are of one class, and the best network is right for 71 of 100."""
    rows = [
        (planned_row(key, "bccd", backbone, score, majority_score=0.7), None)
        for key, (backbone, score) in enumerate((("tf_efficientnet_lite0", 0.71), ("vgg16", 0.3)))
    ]
    text = page_of(tmp_path, rows, DETECTION)
    assert "No network reaches 71.5 with `finetune`" in text
    assert "Always answering with the most frequent class scores 70.0." in text
    assert "| bccd: detection | none reaches 71.5 |" in text


def test_pairs_of_networks_count_where_one_of_them_has_learned_something():
    """On one of the two sets, vgg16 and resnet50 are no better than the most frequent class, and more is."""
    scores = {"new": {"vgg16": 0.6, "resnet50": 0.5, "more": 0.8}, "old": {"vgg16": 0.9, "resnet50": 0.8, "more": 0.7}}
    found = [
        {net: [row(set=name, backbone=net, score=score, majority_score=0.6)] for net, score in by_network.items()}
        for name, by_network in scores.items()
    ]
    assert {(duel.first, duel.second) for duel in duels(found)} == {("vgg16", "more"), ("resnet50", "more")}


def test_the_test_across_sets_has_a_result_from_five_sets_on(tmp_path):
    rows = [
        (planned_row(10 * i + j, name, backbone, score), None)
        for i, name in enumerate("abcde")
        for j, (backbone, score) in enumerate((("tf_efficientnet_lite0", 0.6), ("vgg16", 0.5)))
    ]
    assert "| `finetune` | tf_efficientnet_lite0 | vgg16 | 5 | 5 | 0 | 1.00 |" in page_of(tmp_path, rows, DETECTION)


def test_networks_of_several_weights_are_told_apart():
    rows = [
        row(0, weights="timm:a"), row(1, weights="file:mine.pt", weights_sha256="c" * 64, set="neu"),
        row(2, weights="file:mine.pt", weights_sha256="d" * 64), row(3, backbone="vgg16"),
        row(4, protocol="scratch", weights="random"), row(5, weights="random", weights_sha256=""),
    ]  # fmt: skip
    assert list(network_names(rows).values()) == [
        "resnet18 (timm:a)", "resnet18 (file:mine.pt, SHA-256 cccccccc)", "resnet18 (file:mine.pt, SHA-256 dddddddd)",
        "vgg16", "resnet18", "resnet18",
    ]  # fmt: skip


def test_commands_are_the_same_in_any_order_and_with_defaults():
    one = "python -m detection.train --epochs 3 --backbone a --data.root DATA/b"
    assert same_command(one, "python -m detection.train --data.root DATA/b --precision fp32 --epochs 3 --backbone a")
    for other in (
        "--precision bf16 --epochs 3 --backbone a --data.root DATA/b",
        "--epochs 4 --backbone a",
        "--epochs 3",
    ):
        assert not same_command(one, f"python -m detection.train {other}")
    assert not same_command(one, one.replace("detection", "segmentation"))


def test_random_weights_are_never_beside_pretrained_ones():
    """--protocol finetune --pretrained false has the conditions of other fine-tuning."""
    rows = [row(0), row(1, backbone="vgg16", weights="random", weights_sha256="")]
    assert [list(trainings) for trainings in comparable(rows)] == [["resnet18"], ["vgg16"]]


def test_one_set_counts_once_across_sets():
    """Neither two budgets, nor two versions of its files, nor two names of the same files are two data sets."""
    rows = []
    for i, (name, fingerprint, score) in enumerate(
        (("bccd", "t", 0.5), ("bccd", "u", 0.5), ("cells", "t", 0.5), ("neu", "n", 0.01), ("neu", "n", 0.5))
    ):
        for j, net in enumerate(("resnet18", "vgg16", "more")[: 3 - (score > 0.1)]):
            conditions = f"{i:064x}"
            rows.append(
                row(
                    10 * i + j,
                    set=name,
                    train_fingerprint=fingerprint,
                    backbone=net,
                    conditions=conditions,
                    score=score,
                )
            )
    found = one_for_each_set(comparable(rows))
    assert [next(iter(trainings.values()))[0].set for trainings in found] == ["bccd", "neu"]
    assert [len(trainings) for trainings in found] == [2, 2]  # the larger group of neu has not learned anything


def test_intervals_that_rest_on_few_images_are_left_out():
    few = np.full((1, 200), 0.5)
    few[0, :3] = 0.51
    assert score_half_width(Resampled(200, (None,), np.array([0.5]), few, few), 0.95) is None
    perfect = np.ones((1, 200))
    assert score_half_width(Resampled(200, (None,), np.array([1.0]), perfect, perfect), 0.95) is None


def test_a_weight_file_for_a_network_of_the_plan_changes_no_plan(tmp_path):
    mine = row(50, backbone="tf_efficientnet_lite0", weights="file:mine.pt", score=0.4, set="bccd")
    rows = [(planned_row(0, "bccd", "tf_efficientnet_lite0", 0.6), None), (mine, None)]
    assert "1 of 6 planned trainings are finished" in page_of(tmp_path, rows, DETECTION)


def test_a_corpus_of_earlier_recipes_has_a_page(tmp_path):
    assert "Results of 0 trainings" in page_of(tmp_path, [(row(0, recipe=99), None)], DETECTION)


def test_the_interval_of_a_score_is_that_of_its_difference_to_a_constant():
    one = resampled(0.1)
    of_images = one.resampled.var(ddof=1) * 200 / 199
    assert score_half_width(one, 0.95) == pytest.approx(1.97 * of_images**0.5, rel=0.02)


def test_the_plan_of_this_package_is_valid():
    planned = read_plan(Path("results/plan.yaml"), {"my:net": "file"})
    assert len({(cell.task, cell.set) for cell in planned}) == 8
    assert {cell.seed for cell in planned} == {0, 1, 2}
    for cell in {(cell.set, cell.task): cell for cell in planned if cell.backbone != "my:net"}.values():
        assert cell.cell(Path("DATA"), {}).config.protocol == cell.protocol  # raises for what train refuses
    name = PlannedCell("a", "a", "detection", "scratch", "x", 1, date(2026, 1, 1), ()).name
    assert name == "detection/a/scratch/x, seed 1"


def test_corpus_and_resplit_exclude_each_other():
    from experiments.compare.config import CompareConfig

    with pytest.raises(UserError, match="leave out --resplit"):
        CompareConfig(corpus="results", resplit=3).check()
