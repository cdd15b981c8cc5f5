"""Checkpoints that outlive the machine: copied to the kept folder (keeping.py), and brought back on the next machine.

Only trainings in a folder from `unit.lasting` are copied, after `colab.keep()`. Each run has a folder of its own there,
named by all that decides its result; the seal of a checkpoint (checkpoints.py) is copied last, so one whose copy was
cut off counts as unfinished.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils import keeping
from course_utils.finetuning import checkpoints, data_quality

COPIES = 2  # as many checkpoints of a run as the trainer keeps itself


def place_of(folder: Path, run: Mapping[str, Any]) -> Path | None:
    """Where the checkpoints of `run`, trained in `folder`, are kept; None if they are not."""
    stem = keeping.runs_of(folder)
    if stem is None:
        return None
    mark = data_quality.fingerprint([dict(run)])[:12]
    return stem.with_name(f"{stem.name}-{mark}")


def bring_back(folder: Path, run: Mapping[str, Any]) -> None:
    """Where `folder` has no checkpoint, put the newest whole one of this very `run` there, from the kept folder."""
    kept = place_of(folder, run)
    if kept is None or checkpoints.numbered(folder):
        return
    found: list[Path] = []
    keeping.attempt(lambda _: found.extend(checkpoints.numbered(kept)))
    for checkpoint in reversed(found):
        reason = _fetched(checkpoint, folder)
        if not reason:
            checkpoints.sign(folder, run)
            print(f"{checkpoint.name} was kept by an earlier session, in {kept}.")
            return
        print(f"The kept {checkpoint.name} {reason}. It is left out.")
    _tell_others(kept, run)


def _fetched(checkpoint: Path, folder: Path) -> str:
    """Copy a kept checkpoint into `folder`. Returns what is wrong with it, and removes it then; "" if it is whole."""
    arrived = folder / checkpoint.name
    reason = "can't be read"
    if keeping.attempt(lambda _: copy(checkpoint, folder)):
        reason = checkpoints.fault(arrived)
    if reason:
        shutil.rmtree(arrived, ignore_errors=True)
    return reason


def _tell_others(kept: Path, run: Mapping[str, Any]) -> None:
    """Say that other runs are kept under this name, and what differs from the newest of them."""
    stem = kept.name.rpartition("-")[0]
    others: list[Path] = []

    def look(_: Path) -> None:
        others.extend(path for path in kept.parent.glob(f"{stem}-*") if path != kept and checkpoints.numbered(path))
        others.sort(key=lambda path: path.stat().st_mtime)

    if keeping.attempt(look) and others:
        differs = checkpoints.differences(checkpoints.recorded(others[-1]), run)
        print(f"The checkpoints in {others[-1]} are of another run ({differs}). This one starts anew, beside it.")


def copying(run: Mapping[str, Any]) -> Any:
    """A callback of transformers' trainer that copies each checkpoint of `run`. To be called after the one that seals.

    Whether things are kept is asked at each checkpoint: `colab.keep()` may come late, and a Drive may go.
    """
    from transformers import TrainerCallback

    class Copy(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir)
            kept = place_of(folder, run)
            if kept is not None:
                keeping.attempt(lambda _: _keep(folder, f"checkpoint-{state.global_step}", kept))

    return Copy()


def _keep(folder: Path, name: str, kept: Path) -> None:
    """Copy a checkpoint and what it belongs to, then remove the older copies."""
    kept.parent.mkdir(exist_ok=True)
    kept.mkdir(exist_ok=True)
    shutil.copyfile(folder / checkpoints.RUN, kept / checkpoints.RUN)
    copy(folder / name, kept)
    others = [path for path in checkpoints.numbered(kept) if path.name != name]
    for old in others[: 1 - COPIES]:
        shutil.rmtree(old)


def copy(checkpoint: Path, folder: Path) -> None:
    """Copy a sealed checkpoint into `folder`, its seal last. What an earlier, unfinished copy left is overwritten.

    OSError if a file can't be read or written. Without a seal there, the copy has none.
    """
    seal = checkpoint / checkpoints.FILES
    target = folder / checkpoint.name
    target.mkdir(parents=True, exist_ok=True)
    (target / seal.name).unlink(missing_ok=True)
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != seal:
            place = target / path.relative_to(checkpoint)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    if seal.is_file():
        shutil.copyfile(seal, target / seal.name)
