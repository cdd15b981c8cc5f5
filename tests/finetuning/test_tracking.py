"""Numbers written are the numbers read back, nothing is sent, and a missing tracker is no error until it is used."""

import dataclasses
import os
import re
import sys
import tomllib

import pytest

from course_utils.finetuning import tracking
from course_utils.finetuning.qlora import RECIPES
from course_utils.settings import ROOT

POINTS = [("loss", 2.5, 1), ("loss", 1.25, 2), ("eval_loss", 1.5, 2)]


def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    write, close = tracking.tensorboard(tmp_path)
    for point in POINTS:
        write(*point)
    close()
    assert tracking.read_tensorboard(tmp_path) == {"loss": [(1, 2.5), (2, 1.25)], "eval_loss": [(2, 1.5)]}


def test_a_folder_without_events_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="board holds no event file: train with a writer"):
        tracking.read_tensorboard(tmp_path / "board")


def test_mlflow_sorts_finished_runs_and_sends_nothing(tmp_path):
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("mlflow")
    client, experiment = tracking.mlflow(tmp_path)
    for name, loss in (("worse", 2.0), ("better", 1.0), ("broken", 0.5)):
        write, finish = tracking.mlflow_run(client, experiment, name, {"rank": "16"})
        write("rank", 0.0, 1)  # a number and a setting with the same name
        write("eval_loss", 9.0, 1)
        write("eval_loss", loss, 2)
        if name != "broken":  # it stopped before its end
            finish()
    rows = tracking.read_mlflow(client, experiment)
    assert [(row["run"], row["eval_loss"], row["rank"]) for row in rows] == [
        ("better", 1.0, "16"),
        ("worse", 2.0, "16"),
    ]
    history = client.get_metric_history(rows[0]["id"], "eval_loss")
    assert [(m.step, m.value) for m in history] == [(1, 9.0), (2, 1.0)]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
    assert (tmp_path / "mlflow.db").is_file()


def test_the_callback_hands_numbers_on_and_nothing_else():
    seen = []
    callback = tracking.follow([lambda *point: seen.append(point)] * 2)
    state = type("State", (), {"global_step": 3})
    callback.on_log(None, state, None, logs={"loss": 1, "note": "text"})
    assert seen == [("loss", 1.0, 3)] * 2


def test_another_recipe_or_other_data_is_another_record():
    rows = [{"prompt": "a", "completion": "b"}]
    kept = tracking.settings(RECIPES["bundled"], rows)
    assert {field.name for field in dataclasses.fields(RECIPES["bundled"])} < set(kept)
    assert re.fullmatch("[0-9a-f]{12}", kept["data"]) and kept["torch"]
    assert kept != tracking.settings(dataclasses.replace(RECIPES["bundled"], rank=4), rows)
    other = tracking.settings(RECIPES["bundled"], [{"prompt": "a", "completion": "c"}])
    assert kept | {"data": ""} == other | {"data": ""} and kept["data"] != other["data"]


def test_the_advice_names_an_extra_that_there_is():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    (extra,) = re.findall(r"\[(\w+)\]", tracking.how_to_install())
    assert {re.split("[<>=~]", one)[0] for one in extras[extra]} >= {"tensorboard", "mlflow-skinny"}


def test_a_missing_tracker_is_named(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None if name == "mlflow" else object())
    assert tracking.installed() == {"tensorboard": True, "mlflow": False, "wandb": True}


def test_wandb_is_offline_or_absent(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, numbers, step):
            calls.append((numbers, step))

        def finish(self):
            calls.append("finished")

    def init(**settings):
        calls.append(settings["mode"])
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", type("wandb", (), {"init": staticmethod(init)}))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_SILENT", "")
    write, finish = tracking.wandb(tmp_path, "run")
    write("loss", 1.0, 2)
    finish()
    assert calls == ["offline", ({"loss": 1.0}, 2), "finished"] and os.environ["WANDB_MODE"] == "offline"
