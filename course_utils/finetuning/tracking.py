"""Unit 7.5: keep what a training run did, in TensorBoard's and MLflow's own formats, on this machine only.

Needs the extra `tracking` (tensorboard, mlflow-skinny with SQLite). No server is started and nothing is sent.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import colab
from course_utils.finetuning import data_quality

if TYPE_CHECKING:
    from course_utils.finetuning.qlora import Recipe

Write = Callable[[str, float, int], None]  # name, value, step

# Module -> what it is called when it is missing.
TRACKERS = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases"}


def how_to_install() -> str:
    """What brings TensorBoard and MLflow to this machine."""
    return f"{colab.how_to_add_extra('tracking')}, then restart the kernel"


def installed() -> dict[str, bool]:
    """Which trackers can be imported here, by module."""
    return {module: importlib.util.find_spec(module) is not None for module in TRACKERS}


def settings(recipe: Recipe, rows: Sequence[Mapping]) -> dict[str, str]:
    """What somebody needs to run it again: the recipe, the data's fingerprint (12 digits), the libraries' versions."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft", "trl")}
    kept = dataclasses.asdict(recipe) | {"data": data_quality.fingerprint(rows)[:12]} | versions
    return {name: str(value) for name, value in kept.items()}


def follow(writers: Sequence[Write]) -> Any:
    """A callback for transformers' and TRL's trainers that hands every logged number to all `writers`."""
    from transformers import TrainerCallback

    class Follow(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any) -> None:
            for name, value in logs.items():
                if isinstance(value, int | float):
                    for write in writers:
                        write(name, float(value), state.global_step)

    return Follow()


# ---------------------------------------------------------------- TensorBoard


def tensorboard(folder: Path) -> tuple[Write, Callable[[], None]]:
    """A writer of event files in `folder`, and what closes it."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    return lambda name, value, step: writer.add_scalar(name, value, step), writer.close


def read_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Everything in the event files of `folder`: name -> (step, value) pairs. FileNotFoundError without any."""
    if not any(folder.glob("events.out.tfevents.*")):
        raise FileNotFoundError(
            f"{folder.name} holds no event file: train with a writer from `tensorboard`, and close it"
        )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        curves[name] = [(event.step, event.value) for event in events.Scalars(name)]
    return curves


# ---------------------------------------------------------------- MLflow


def mlflow(folder: Path) -> tuple[Any, str]:
    """MLflow's client on a SQLite file in `folder`, and the id of a fresh experiment. Telemetry is off.

    MLflow (3.2 and later) reports to its makers unless this is set before it is imported.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    import logging

    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(f"sqlite:///{(folder / 'mlflow.db').as_posix()}")
    made = client.create_experiment("prisma", artifact_location=(folder / "artifacts").as_uri())
    return client, made


def mlflow_run(
    client: Any, experiment: str, name: str, settings: Mapping[str, str]
) -> tuple[Write, Callable[[], None]]:
    """A writer into a new run of an experiment, with these settings, and what finishes the run."""
    run = client.create_run(experiment, run_name=name).info.run_id
    for key, value in settings.items():
        client.log_param(run, key, value)

    def write(number: str, value: float, step: int) -> None:
        client.log_metric(run, number, value, step=step)

    return write, lambda: client.set_terminated(run)


def read_mlflow(client: Any, experiment: str) -> list[dict]:
    """A row for each finished run, lowest validation loss first: its last numbers and its settings.

    Where both have a name (the learning rate, which trainers log as it falls), the setting counts.
    """
    found = client.search_runs([experiment], "attributes.status = 'FINISHED'", order_by=["metrics.eval_loss ASC"])
    return [{"run": r.info.run_name, "id": r.info.run_id, **r.data.metrics, **r.data.params} for r in found]


# ---------------------------------------------------------------- Weights & Biases


def wandb(folder: Path, name: str) -> tuple[Write, Callable[[], None]]:
    """A writer into an offline run of Weights & Biases: files in `folder`, nothing sent, no account."""
    os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"] = "offline", "true"
    library = importlib.import_module("wandb")
    run = library.init(project="prisma", name=name, dir=str(folder), mode="offline")
    return lambda key, value, step: run.log({key: value}, step=step), run.finish
