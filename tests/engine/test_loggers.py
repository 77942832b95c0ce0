"""`--logger`: trackers get the rows of metrics.csv and the settings, and a resumed run continues under its own name."""

import csv
import importlib.util
import json
import math
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.errors import UserError
from detection.config import TrainConfig
from engine.history import History
from engine.loggers import Trackers

SETTINGS = {"lr": 0.5, "resume": None, "data": {"root": "photos", "fraction": 1.0}}
ROWS = [
    {"epoch": 0, "step": 4, "loss": 2.5},
    {"epoch": 1, "step": 8, "loss": 1.5, "AP": 0.25, "APs": math.nan},
    {"epoch": 2, "step": 12, "loss": 1.0, "AP": 0.5, "APs": math.nan},
]


def track(folder, names, rows, after=0, end="train_end"):
    """What a training does with its trackers; `after` steps that an earlier one has taken."""
    history = History(folder, "AP")
    trackers = Trackers(names, history, "detection", SETTINGS)
    trackers.on_train_start(SimpleNamespace(global_step=after), None)
    for row in rows:
        history.rows.append(dict(row))
        trackers.on_train_epoch_end(SimpleNamespace(global_step=row["step"]), None)
    if end == "train_end":
        trackers.on_train_end(None, None)
    else:
        trackers.on_exception(None, None, end)


def board(folder):
    found = EventAccumulator(str(folder), purge_orphaned_data=True)
    found.Reload()
    return found


def points(folder, name):
    return [(event.step, event.value) for event in board(folder).Scalars(name)]


def test_tensorboard_gets_rows_and_settings(tmp_path):
    track(tmp_path, ["tensorboard"], ROWS)
    assert points(tmp_path, "loss") == [(4, 2.5), (8, 1.5), (12, 1.0)]
    assert points(tmp_path, "AP") == [(8, 0.25), (12, 0.5)]
    assert "APs" not in board(tmp_path).Tags()["scalars"]
    text = board(tmp_path).Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "lr: 0.5" in text
    assert "root: photos" in text
    assert all(file.name.startswith("events.out.tfevents") for file in tmp_path.iterdir())


def test_a_resumed_run_has_each_point_once(tmp_path):
    """Stopped after a row that no checkpoint holds: the row is computed again."""
    track(tmp_path, ["tensorboard"], ROWS[:2], end=KeyboardInterrupt())
    track(tmp_path, ["tensorboard"], ROWS[1:], after=4)
    assert points(tmp_path, "loss") == [(4, 2.5), (8, 1.5), (12, 1.0)]
    assert points(tmp_path, "AP") == [(8, 0.25), (12, 0.5)]


def test_none_at_all(tmp_path):
    track(tmp_path, [], ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["sqlite:///{}/kept.db", None])
def test_mlflow_in_a_local_folder(tmp_path, monkeypatch, place):
    mlflow = pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    monkeypatch.chdir(tmp_path)
    if place:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place.format(tmp_path))
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)
    run = tmp_path / "run"
    run.mkdir()
    track(run, ["mlflow"], ROWS[:2], end=KeyboardInterrupt())
    client, identity = mlflow.MlflowClient(), (run / "mlflow.id").read_text().strip()
    assert client.get_run(identity).info.status == "KILLED"
    track(run, ["mlflow"], ROWS[2:], after=8)
    found = client.get_run(identity)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["data.root"] == "photos"
    history = [(m.step, m.value) for m in client.get_metric_history(identity, "loss")]
    assert history == [(4, 2.5), (8, 1.5), (12, 1.0)]
    assert "APs" not in found.data.metrics
    mlflow.set_tracking_uri(None)


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra `track` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track(tmp_path, ["wandb"], ROWS[:2], end=KeyboardInterrupt())
    identity = (tmp_path / "wandb.id").read_text().strip()
    track(tmp_path, ["wandb"], ROWS[2:], after=8)
    assert (tmp_path / "wandb.id").read_text().strip() == identity
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(files) == 2
    content = b"".join(file.read_bytes() for file in files)
    assert b"photos" in content
    for row in ROWS:
        assert json.dumps(row["loss"]).encode() in content


def test_a_missing_tracker_is_named_with_its_remedy(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr("engine.config.find_spec", lambda name: None if name == "mlflow" else found(name))
    TrainConfig(logger=["tensorboard"]).check()
    with pytest.raises(UserError, match=r"--logger mlflow is not installed: python -m pip install 'backbone-swap\[tr"):
        TrainConfig(logger=["tensorboard", "mlflow"]).check()
    (tmp_path / "wandb").mkdir()  # as an earlier run leaves it
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    if importlib.util.find_spec("wandb").origin is None:
        with pytest.raises(UserError, match="--logger wandb is not installed"):
            TrainConfig(logger=["wandb"]).check()


def test_it_is_a_list_flag_and_no_part_of_what_is_compared():
    from experiments.jobs.cell import Cell

    plain = Cell("detection", ())
    asked = Cell("detection", ("--logger", "tensorboard", "--lr", "0.1"))
    assert asked.config.logger == ["tensorboard"]
    assert asked.config.lr == 0.1
    assert Cell("detection", ("--logger=[]", "--data.root", ".")).config.logger == []
    assert Cell("detection", ("--logger", "tensorboard")).key == plain.key
    assert "logger" not in plain.settings


def test_settings_of_earlier_versions_load():
    values = json.loads(json.dumps(TrainConfig().__dict__, default=vars))
    del values["logger"]
    assert TrainConfig.of(values).logger == ["tensorboard"]


def test_history_writes_its_table_without_trackers(tmp_path):
    history = History(tmp_path, "AP")
    trainer = SimpleNamespace(current_epoch=0, global_step=4)
    history.on_train_start(trainer, None)
    history._sums, history._batches = {"loss": 5.0}, 2
    history.on_train_epoch_end(trainer, None)
    assert list(csv.DictReader((tmp_path / "metrics.csv").open())) == [{"epoch": "0", "step": "4", "loss": "2.5"}]
