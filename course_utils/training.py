"""What training shares: a deadline, a checkpoint, a progress line, optimisers and the loop."""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from course_utils import faster
from course_utils.settings import BUILD, paced


class Deadline:
    """Counts the minutes spent, those before a resume included: `part` runs from 0 to 1."""

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        if not 0 < minutes < math.inf:
            raise ValueError(f"training needs a number of minutes above 0, not {minutes}")
        self.seconds, self.before, self.started = minutes * 60, spent, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self.before + time.monotonic() - self.started

    @property
    def part(self) -> float:
        return min(self.spent / self.seconds, 1.0)

    @property
    def over(self) -> bool:
        return self.spent >= self.seconds


class Checkpoint:
    """The state of a training run in `folder`, written so that a kill at any moment leaves a whole file.

    The state before the last one is kept, too: if the last file is damaged later, the run goes on from there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.before = folder, folder / "state.pt", folder / "state-before.pt"

    def save(self, model: Any, optimiser: Any, **numbers: Any) -> None:
        """Keep the weights, the optimiser and any plain values (step, spent seconds, seeds, history)."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        half_written = self.path.with_suffix(".part")
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), **numbers}
        torch.save(state, half_written)
        if self.path.exists():
            os.replace(self.path, self.before)
        os.replace(half_written, self.path)

    def load(self, model: Any, optimiser: Any) -> dict[str, Any]:
        """Put the saved state back and return the plain values; an empty dict if there is none.

        A damaged file is moved aside, aloud, and the one before is taken. ValueError if a whole one does not fit this
        model. Nothing is unpickled: `weights_only` lets in tensors and plain values alone.
        """
        damaged = False
        for path in (self.path, self.before):
            state = self._read(path)
            if state:
                self._put_back(path, state, model, optimiser)
                return state
            damaged = damaged or os.path.lexists(path)
            self._set_aside(path)
        if damaged:
            print("No whole checkpoint is left: training starts anew.")
        return {}

    def _read(self, path: Path) -> dict[str, Any]:
        """The state in a file; an empty dict if it holds none that is whole."""
        import torch

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # whatever a damaged file makes torch, zip or the unpickler raise
            return {}
        whole = isinstance(state, dict) and {"model", "optimiser"} <= state.keys()
        return state if whole else {}

    def _put_back(self, path: Path, state: dict[str, Any], model: Any, optimiser: Any) -> None:
        try:
            model.load_state_dict(state.pop("model"))
            optimiser.load_state_dict(state.pop("optimiser"))
        except Exception as error:
            cure = "delete it and train afresh, without --resume"
            raise ValueError(f"{path} does not fit this recipe; {cure} ({error})") from error

    def _set_aside(self, path: Path) -> None:
        """Give a damaged file a name of its own, and say so."""
        if not os.path.lexists(path):
            return
        number = 1
        while os.path.lexists(place := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")):
            number += 1
        os.replace(path, place)
        print(f"{path.name} is damaged: it is now {place.name}.")


def checkpoint(model_name: str) -> Checkpoint:
    """The checkpoint of `course train <model_name>`."""
    return Checkpoint(BUILD / "train" / model_name)


def progress(text: str, last: bool = False) -> None:
    """One progress line: rewritten in place in a terminal, a line of its own in a log."""
    if os.environ.get("COURSE_QUIET") == "1":
        return
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", flush=True)
    else:
        print(text, flush=True)


def learning_rate(part: float, peak: float, warm: float = 0.02) -> float:
    """Linear warm-up to `peak`, then a cosine down to a fiftieth of it; `part` of the run is 0..1."""
    if part < warm:
        return peak * (part + 1e-3) / (warm + 1e-3)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (part - warm) / (1 - warm))))


class MuonAdamW:
    """Muon (arXiv 2502.16982) for the matrices inside the layers, AdamW for everything else.

    `inner(name, parameter)` says which parameters are such matrices.
    """

    def __init__(self, model: Any, peak: float, inner: Callable[[str, Any], bool], decay: float = 0.01) -> None:
        import torch

        # Of tied weights the model names only one, so nothing is updated twice.
        matrices = [p for name, p in model.named_parameters() if inner(name, p)]
        others = [p for name, p in model.named_parameters() if not inner(name, p)]
        self.kind = matrices[0].device.type
        self.parts = (
            torch.optim.Muon(matrices, lr=peak, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=decay),
        )

    def step(self, rate: float) -> None:
        """One update at the learning rate `rate`, after which the gradients are gone."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            with faster.muon_without_bfloat16(self.kind):
                part.step()
            part.zero_grad()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Learner:
    """AdamW on the weights that are not frozen, of a model and `more`; the rate rises to its peak, then falls to zero.

    It rises for the part `rising` of the steps, two at least (OneCycleLR). Gradients longer than `clip` are cut to
    this length. It plans for `steps` steps, a tenth of what is asked for at the quick pace (settings.paced).
    """

    def __init__(
        self,
        model: Any,
        rate: float,
        steps: int,
        *,
        decay: float = 0.0,
        rising: float = 0.1,
        clip: float = 1.0,
        more: Iterable[Any] = (),
    ) -> None:
        import torch

        self.steps = paced(steps)
        self.weights, self.clip = [p for p in (*model.parameters(), *more) if p.requires_grad], clip
        self.optimiser = torch.optim.AdamW(self.weights, lr=rate, weight_decay=decay)
        self.plan = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, rate, total_steps=self.steps, pct_start=max(rising, 2 / self.steps)
        )

    def step(self, loss: Any) -> float:
        """One step down the gradient of `loss`, a tensor (). Returns its value."""
        import torch

        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimiser.step()
        self.plan.step()
        return loss.item()


def run(
    name: str,
    batches: Iterable[Any],
    learn: Callable[[Any, int, float], float],
    deadline: Deadline,
    state: dict[str, Any],
    keep: Callable[[dict[str, Any]], None],
    most: int | None = None,
) -> dict[str, Any]:
    """Learn batch after batch until the deadline or `most` steps in all.

    `learn(batch, step, part)` takes one step, `part` (0..1) of the way through the run, and returns its loss.
    `keep(state)` is called each minute and at the end; `state` counts the steps and the seconds spent.
    """
    kept, losses = deadline.spent, deque(maxlen=50)
    for batch in batches:
        if deadline.over or (most is not None and state["step"] >= most):
            break
        losses.append(learn(batch, state["step"], deadline.part))
        state.update(step=state["step"] + 1, spent=deadline.spent)
        if deadline.spent - kept > 60:
            keep(state)
            progress(f"{name} {deadline.part:4.0%}, step {state['step']}, loss {sum(losses) / len(losses):.3f}")
            kept = deadline.spent
    keep(state)
    return state
