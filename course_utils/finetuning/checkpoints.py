"""The folder of a fine-tuning run: whose checkpoints it holds, which of them are whole, and where the others go.

`run.json` beside the checkpoints says which recipe, data and model they belong to. `files.json` in each checkpoint
has the SHA-256 of its files, so that one damaged since is noticed before the trainer reads it. Nothing is deleted
here: what is of no use is moved to a folder beside.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_utils.models import bundled

RUN, FILES = "run.json", "files.json"
SAMPLE = 1024  # numbers of each tensor that a fingerprint looks at: a 7B model has too many to read them all


def to_go_on_from(folder: Path, run: Mapping[str, Any]) -> Path | None:
    """The newest whole checkpoint of this very `run` in `folder`; None if there is none, and the run starts anew.

    Checkpoints of another run, and damaged ones, are moved aside, and it says so. From now on `folder` is `run`'s.
    """
    found = numbered(folder)
    if found and recorded(folder) != run:
        _make_room(folder, found, run)
        found = []
    sign(folder, run)
    for checkpoint in reversed(found):
        reason = fault(checkpoint)
        if not reason:
            return checkpoint
        place = set_aside(folder, [checkpoint], "damaged")
        print(f"{checkpoint.name} {reason}. It is now in {place}.")
    return None


def sign(folder: Path, run: Mapping[str, Any]) -> None:
    """Write down that the checkpoints in `folder`, which is made if it is missing, are `run`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / RUN, run)


def _make_room(folder: Path, found: list[Path], run: Mapping[str, Any]) -> None:
    """Move another run's checkpoints aside, and say what differs."""
    differs = differences(recorded(folder), run)
    place = set_aside(folder, [*found, folder / RUN], "earlier")
    print(
        f"The checkpoints in {folder.name} are of another run ({differs}). This one starts anew; they are in {place}."
    )


def numbered(folder: Path) -> list[Path]:
    """All that is called checkpoint-N in `folder`, whole or not, by N."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    found = [path for path, step in steps.items() if step.isdecimal()]
    return sorted(found, key=lambda path: int(steps[path]))


def recorded(folder: Path) -> dict[str, Any] | None:
    """What `folder` says about its checkpoints' run; None if it says nothing that can be read."""
    return _read(folder / RUN)


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """What differs between two runs, in words: "rank: 16 then, 2 now"."""
    if old is None:
        return "nothing says which recipe and data made them"
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)} then, {new.get(name)} now" for name in names)


def set_aside(folder: Path, paths: Iterable[Path], why: str) -> Path:
    """Move `paths` to a new folder in `folder`, called `why` and a number. Returns it."""
    number = 1
    while (folder / f"{why}-{number}").exists():
        number += 1
    place = folder / f"{why}-{number}"
    place.mkdir()
    for path in paths:
        with suppress(OSError):
            path.chmod(0o700 if os.path.isdir(path) else 0o600)  # a folder that may not be written does not move either
        with suppress(FileNotFoundError):
            path.rename(place / path.name)
    return place


# ---------------------------------------------------------------- is it whole?


def seal(checkpoint: Path) -> None:
    """Write down the files of a finished checkpoint. It counts as whole from now on, and only as it is now."""
    files = {path.relative_to(checkpoint).as_posix(): bundled.sha256(path) for path in _files(checkpoint)}
    _write(checkpoint / FILES, {"checkpoint": checkpoint.name, "files": files})


def fault(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in words that follow its name; "" if it is as it was sealed."""
    if not os.path.isfile(checkpoint / FILES):  # Path.is_file raises where it may not look
        return "was not finished when the run was killed"
    sealed = _read(checkpoint / FILES) or {}
    files = sealed.get("files")
    if not isinstance(files, dict) or sealed.get("checkpoint") != checkpoint.name:
        return f"is damaged: its {FILES} is not as it was written"
    for name, digest in files.items():
        if _digest(checkpoint / name) != digest:
            return f"is damaged: {name} is not as it was written"
    return ""


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != FILES)


def _digest(path: Path) -> str:
    """The SHA-256 of a file; "" if it cannot be read."""
    try:
        return bundled.sha256(path)
    except OSError:
        return ""


def sealing() -> Any:
    """A callback of transformers' trainer that seals each checkpoint as soon as it is written."""
    from transformers import TrainerCallback

    class Seal(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Seal()


# ---------------------------------------------------------------- which model?


def weights_mark(model: nn.Module) -> str:
    """Twelve digits that stand for the weights of `model`, whatever the library's names and number formats for them.

    It looks at `SAMPLE` numbers of each tensor, spread evenly: training changes every tensor that it trains.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        scales = getattr(getattr(parameter, "quant_state", None), "absmax", None)
        for tensor in (parameter, scales):
            if tensor is not None:
                digest.update(_sample(tensor))
    return digest.hexdigest()[:12]


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().flatten()
    some = flat[:: max(1, len(flat) // SAMPLE)]
    return str(tuple(tensor.shape)).encode() + some.float().cpu().numpy().tobytes()


# ---------------------------------------------------------------- files


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file with a dictionary in it; None if that is not what it is."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that a kill at any moment leaves the old file or the new one."""
    half = path.with_suffix(".part")
    half.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
    os.replace(half, path)
