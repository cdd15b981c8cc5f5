"""A training goes on after its machine was lost, and a Drive that fails never stops one."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hosted
import killed
import pytest
import torch

from course_utils import colab, keeping
from course_utils.finetuning import checkpoints, kept_runs, sft
from course_utils.prisma import lm

RUN = {"learning_rate": 1e-2, "rank": 16, "training data": "abc"}


# ---------------------------------------------------------------- two machines, one Drive


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with an untrained model of prisma-lm's kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    tokenizer = lm.build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, initializer_range=0.2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    lm.save(LlamaForCausalLM(config), tokenizer, folder)
    return folder


def machine(drive: Path, home: Path, model: Path, *step: str) -> subprocess.CompletedProcess:
    """A machine with an empty home folder, from its start to its end."""
    home.mkdir()
    program = Path(__file__).with_name("lost_runtime.py")
    command = [sys.executable, str(program), str(drive), str(home), str(model), *step]
    environment = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment.pop("COURSE_KEPT", None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_run_goes_on_to_the_same_curves_after_its_machine_was_lost(tiny, tmp_path):
    whole = killed.trainer(tiny, tmp_path / "whole")
    sft.train(whole)
    expected = sft.curves(whole)

    lost = machine(tmp_path / "drive", tmp_path / "lost", tiny, "7")
    assert lost.returncode == -signal.SIGKILL, lost.stderr[-2000:]
    shutil.rmtree(tmp_path / "lost")

    second = machine(tmp_path / "drive", tmp_path / "second", tiny)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "checkpoint-6 was kept by an earlier session" in second.stdout
    assert "Going on from checkpoint-6." in second.stdout
    curves = json.loads((tmp_path / "second" / "curves.json").read_text())
    for name, points in expected.items():
        again = dict(curves[name])
        assert again.keys() == dict(points).keys() and len(points) >= 6
        assert max(abs(again[step] - loss) for step, loss in points) < 1e-3
    losses = [loss for _, loss in expected["training"]]
    assert max(losses) - min(losses) > 0.05  # there is something to get wrong
    (kept,) = (tmp_path / "drive" / "MyDrive" / "genai-course" / "runs").iterdir()
    assert [path.name for path in checkpoints.numbered(kept)] == ["checkpoint-10", "checkpoint-12"]


# ---------------------------------------------------------------- the copies


class Said:
    """What transformers' trainer tells its callbacks."""

    def __init__(self, output_dir="", global_step=0):
        self.output_dir, self.global_step = output_dir, global_step


def save(folder: Path, step: int, run: dict = RUN) -> None:
    """A checkpoint as the trainer and the seal leave it, and then the callback that copies."""
    checkpoints.sign(folder, run)
    place = folder / f"checkpoint-{step}"
    (place / "parts").mkdir(parents=True)
    (place / "parts" / "optimizer.pt").write_text(f"optimiser after {step}")
    (place / "adapter.safetensors").write_text(f"weights after {step}")
    checkpoints.seal(place)
    kept_runs.copying(run).on_save(Said(str(folder)), Said(global_step=step), None)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A lasting folder on Colab, which keeps things, after two checkpoints."""
    hosted.use_colab(monkeypatch, tmp_path / "drive")
    colab.keep()
    made = keeping.lasting(tmp_path / "first" / "support", "7.5-support")
    for step in (5, 10):
        save(made, step)
    return made


def next_machine(tmp_path: Path, name: str = "second") -> Path:
    return keeping.lasting(tmp_path / name / "support", "7.5-support")


def test_the_next_machine_gets_the_newest_checkpoint_as_it_was(folder, tmp_path, capsys):
    second = next_machine(tmp_path)
    kept_runs.bring_back(second, RUN)
    assert "checkpoint-10 was kept by an earlier session" in capsys.readouterr().out
    assert checkpoints.to_go_on_from(second, RUN) == second / "checkpoint-10"
    assert (second / "checkpoint-10" / "parts" / "optimizer.pt").read_text() == "optimiser after 10"


def test_what_is_on_this_machine_goes_first(folder, capsys):
    capsys.readouterr()
    kept_runs.bring_back(folder, RUN)
    assert capsys.readouterr().out == ""


def test_two_copies_of_a_run_are_kept_and_runs_do_not_share_a_folder(folder, tmp_path):
    save(folder, 15)
    other = next_machine(tmp_path, "other")
    save(other, 20, {**RUN, "rank": 2})
    names = {}
    for place in (keeping.folder() / "runs").iterdir():
        names[checkpoints.recorded(place)["rank"]] = [path.name for path in checkpoints.numbered(place)]
    assert names == {16: ["checkpoint-10", "checkpoint-15"], 2: ["checkpoint-20"]}


def test_another_run_starts_anew_and_says_what_differs(folder, tmp_path, capsys):
    kept_runs.bring_back(next_machine(tmp_path), {**RUN, "rank": 2})
    said = capsys.readouterr().out
    assert "are of another run (rank: 16 then, 2 now). This one starts anew" in said
    assert not (tmp_path / "second").exists()


def cut_off(checkpoint: Path) -> None:
    """The machine was lost while it copied: the seal comes last."""
    (checkpoint / "files.json").unlink()


def half_written(checkpoint: Path) -> None:
    (checkpoint / "adapter.safetensors").write_text("wei")


def lost_file(checkpoint: Path) -> None:
    (checkpoint / "parts" / "optimizer.pt").unlink()


@pytest.mark.parametrize("damage", [cut_off, half_written, lost_file, shutil.rmtree])
def test_a_damaged_copy_falls_back_to_the_one_before_and_is_replaced_later(folder, tmp_path, capsys, damage):
    (kept,) = (keeping.folder() / "runs").iterdir()
    damage(kept / "checkpoint-10")
    second = next_machine(tmp_path)
    kept_runs.bring_back(second, RUN)
    said = capsys.readouterr().out
    assert "checkpoint-5 was kept" in said and ("It is left out" in said) == (damage is not shutil.rmtree)
    assert [path.name for path in checkpoints.numbered(second)] == ["checkpoint-5"]
    save(second, 10)
    assert checkpoints.fault(kept / "checkpoint-10") == ""


class Trainer:
    """As much of a trainer as `sft.train` asks for; notes where it goes on from."""

    def __init__(self, folder: Path, run: dict):
        self.args, self.run_record = Said(str(folder)), {**run, "steps": 20}
        self.state, self.model = Said(), torch.nn.Identity()

    def train(self, resume_from_checkpoint: str | None) -> None:
        self.resumed = resume_from_checkpoint


def test_a_kept_run_is_found_where_another_run_or_damage_fills_the_folder(tmp_path, monkeypatch):
    """Recipe A on the first machine; on the second B, then A again: A goes on, and B's checkpoint is moved aside."""
    hosted.use_colab(monkeypatch, tmp_path / "drive")
    colab.keep()
    first, run = keeping.lasting(tmp_path / "first" / "support", "7.5-support"), {**RUN, "steps": 20}
    save(first, 10, run)
    second = next_machine(tmp_path)
    save(second, 3, {**run, "rank": 2})
    again = Trainer(second, run)
    sft.train(again)
    assert again.resumed == str(second / "checkpoint-10")
    half_written(second / "checkpoint-10")
    mended = Trainer(second, run)
    sft.train(mended)
    assert mended.resumed == str(second / "checkpoint-10") and checkpoints.fault(second / "checkpoint-10") == ""


def test_a_new_copy_is_never_the_one_that_goes(folder, tmp_path):
    """A run that began anew has small numbers, and damaged copies of larger ones stand beside it."""
    (kept,) = (keeping.folder() / "runs").iterdir()
    for checkpoint in checkpoints.numbered(kept):
        half_written(checkpoint)
    save(next_machine(tmp_path), 2)
    assert checkpoints.fault(kept / "checkpoint-2") == ""
    assert [path.name for path in checkpoints.numbered(kept)] == ["checkpoint-2", "checkpoint-10"]


def test_if_no_copy_is_whole_the_run_starts_anew(folder, tmp_path, capsys):
    (kept,) = (keeping.folder() / "runs").iterdir()
    for checkpoint in checkpoints.numbered(kept):
        half_written(checkpoint)
    second = next_machine(tmp_path)
    kept_runs.bring_back(second, RUN)
    assert capsys.readouterr().out.count("is damaged: adapter.safetensors") == 2
    assert checkpoints.to_go_on_from(second, RUN) is None


def test_a_full_drive_is_said_and_the_training_goes_on(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    save(folder, 15)
    save(folder, 20)
    said = capsys.readouterr().out
    assert said.count("No space left on device") == 1 and "empty its trash" in said
    monkeypatch.undo()
    assert checkpoints.fault(folder / "checkpoint-20") == ""


def test_a_drive_that_is_gone_is_said_and_the_training_starts_on_this_machine(folder, tmp_path, capsys):
    (tmp_path / "drive").rename(tmp_path / "away")
    capsys.readouterr()
    second = next_machine(tmp_path)
    kept_runs.bring_back(second, RUN)
    save(second, 5)
    assert capsys.readouterr().out.count("it is not there any more") == 1
    assert not (tmp_path / "drive").exists() and (second / "checkpoint-5").is_dir()


def test_without_keep_or_in_another_folder_nothing_is_copied(tmp_path, monkeypatch):
    hosted.use_colab(monkeypatch, tmp_path / "drive")
    save(keeping.lasting(tmp_path / "lasting", "7.5-support"), 5)
    assert not (tmp_path / "drive").exists()
    colab.keep()
    save(tmp_path / "short", 5)
    assert not (keeping.folder() / "runs").exists()
