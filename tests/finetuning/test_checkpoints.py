"""Whose checkpoints a folder holds, which of them are whole, and that nothing is ever lost."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from course_utils.finetuning import checkpoints

RUN = {"learning_rate": 1e-2, "rank": 16, "training data": "abc"}


@pytest.fixture
def folder(tmp_path):
    """A run with two checkpoints as the trainer leaves them."""
    made = tmp_path / "support"
    assert checkpoints.to_go_on_from(made, RUN) is None
    for step in (5, 10):
        checkpoint = made / f"checkpoint-{step}"
        checkpoint.mkdir()
        save_file({"lora_A": torch.full((4, 2), float(step))}, checkpoint / "adapter_model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": torch.zeros(8), "step": step}, checkpoint / name)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        checkpoints.seal(checkpoint)
    return made


def everything(folder: Path) -> list[bytes]:
    """The contents of all files below `folder`, in no order that names or places could change."""
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_same_run_goes_on_from_its_newest_checkpoint(folder, capsys):
    before = everything(folder)
    assert checkpoints.to_go_on_from(folder, dict(RUN)).name == "checkpoint-10"
    assert capsys.readouterr().out == "" and everything(folder) == before


@pytest.mark.parametrize(
    "other, said",
    [
        ({**RUN, "learning_rate": 2e-2}, "learning_rate: 0.01 then, 0.02 now"),
        ({**RUN, "rank": 2, "training data": "abd"}, "rank: 16 then, 2 now; training data: abc then, abd now"),
        ({**RUN, "steps": 10}, "steps: None then, 10 now"),
    ],
)
def test_another_run_starts_anew_and_says_what_differs(folder, capsys, other, said):
    old = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert checkpoints.to_go_on_from(folder, other) is None
    told = capsys.readouterr().out
    assert said in told and "starts anew" in told and "earlier-1" in told
    moved = [path.read_bytes() for path in sorted((folder / "earlier-1").rglob("*")) if path.is_file()]
    assert moved == old and not list(folder.glob("checkpoint-*"))
    assert checkpoints.recorded(folder) == other


@pytest.mark.parametrize("record", [None, "", "{", "[]", "<html>", '{"rank": 2}'])
def test_checkpoints_that_nobody_signed_are_of_another_run(folder, capsys, record):
    (folder / "run.json").unlink()
    if record is not None:
        (folder / "run.json").write_text(record)
    assert checkpoints.to_go_on_from(folder, RUN) is None
    assert "starts anew" in capsys.readouterr().out
    assert len(list((folder / "earlier-1").glob("checkpoint-*"))) == 2


def test_moving_aside_twice_keeps_both(folder):
    checkpoints.to_go_on_from(folder, {**RUN, "rank": 2})
    (folder / "checkpoint-5").mkdir()
    checkpoints.to_go_on_from(folder, RUN)
    assert len(list(folder.glob("earlier-*/checkpoint-5"))) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def a_folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_shapes(path: Path) -> None:
    save_file({"lora_A": torch.zeros(2, 2)}, path)


DAMAGES = [
    ("optimizer.pt", truncate),
    ("optimizer.pt", flip),
    ("optimizer.pt", lambda path: path.write_bytes(b"")),
    ("optimizer.pt", a_folder_instead),
    ("scheduler.pt", Path.unlink),
    ("rng_state.pth", Path.unlink),
    ("adapter_model.safetensors", Path.unlink),
    ("adapter_model.safetensors", lambda path: path.write_bytes(b"<html>not found</html>")),
    ("adapter_model.safetensors", other_shapes),
    ("trainer_state.json", lambda path: path.write_text("{")),
    ("trainer_state.json", lambda path: path.write_text('{"global_step": "10"}')),
    ("trainer_state.json", lambda path: path.write_text("[]")),
    ("files.json", Path.unlink),
    ("files.json", lambda path: path.write_text("[]")),
    ("files.json", lambda path: path.write_text('{"files": {}}')),
    ("files.json", a_folder_instead),
    (".", shutil.rmtree),
    (".", lambda path: (shutil.rmtree(path), path.write_text("a file"))),
    (".", lambda path: (shutil.rmtree(path), shutil.copytree(path.with_name("checkpoint-5"), path))),
]


@pytest.mark.parametrize("name, damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder, capsys, name, damage):
    newest = folder / "checkpoint-10"
    damage(newest / name)
    left = everything(folder)
    assert checkpoints.to_go_on_from(folder, RUN) == folder / "checkpoint-5"
    assert everything(folder) == left and not newest.exists()
    told = capsys.readouterr().out
    if (folder / "damaged-1").exists():
        assert told.startswith("checkpoint-10 ") and str(folder / "damaged-1") in told
    else:
        assert name == "." and told == ""  # it was gone


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", [".", "optimizer.pt", "files.json"])
def test_what_may_not_be_read_falls_back_too(folder, name):
    (folder / "checkpoint-10" / name).chmod(0)
    assert checkpoints.to_go_on_from(folder, RUN) == folder / "checkpoint-5"


def test_without_a_whole_checkpoint_the_run_starts_anew(folder, capsys):
    for step in (5, 10):
        truncate(folder / f"checkpoint-{step}" / "optimizer.pt")
    assert checkpoints.to_go_on_from(folder, RUN) is None
    assert "checkpoint-10 is damaged: optimizer.pt" in capsys.readouterr().out
    assert len(list(folder.glob("damaged-*/checkpoint-*"))) == 2


def test_other_names_are_no_checkpoints(folder):
    for name in ("checkpoint-best", "checkpoint-²", "checkpoint-", "my-checkpoint-20"):
        (folder / name).mkdir()
    assert [path.name for path in checkpoints.numbered(folder)] == ["checkpoint-5", "checkpoint-10"]


def test_the_mark_of_weights_is_that_of_their_numbers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 3))
    mark = checkpoints.weights_mark(model)
    assert checkpoints.weights_mark(nn.ModuleDict({"a": model[0], "b": model[1]})) == mark  # names do not matter
    half = model.to(torch.bfloat16)
    assert checkpoints.weights_mark(half) != mark
    assert checkpoints.weights_mark(half) == checkpoints.weights_mark(half.float())
    with torch.no_grad():
        model[1].bias += 1e-3
    assert checkpoints.weights_mark(model) != mark
