"""The peak memory of a real step of a real architecture, without its weights and without a GPU.

    side_by_side(simulate("mistral-7b", "qlora", seq=512))
    largest("qwen2.5-7b", "qlora", ["t4", "h100"])

`course_utils.memory` adds up formulas. Here transformers builds the model, PEFT adds the adapters, bitsandbytes
the 4-bit layers, and one step runs: forward, backward, optimiser. Only the tensors are fake: PyTorch's
FakeTensorMode gives each result its shape, number format and storage, and neither memory nor numbers. A `Ledger`
adds up the storages that are alive. `Step.run` is the same code for fake tensors, for real ones on a CPU and for
real ones on a card, so that `memory/measurement.py` can measure what is simulated.

What it does not see: memory that a kernel takes and gives back inside itself, the CUDA context, gaps in the
allocator. `memory.RUNTIME_GIB` and `memory.RUNTIME_SHARE` stand for those.
"""

import bisect
import dataclasses
import functools
import json
import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils import compat
from course_utils.memory import counting, fake, fit, formulas, shapes
from course_utils.memory.counting import Counted
from course_utils.memory.shapes import GIB, Architecture
from course_utils.models.model_files import first_line

if TYPE_CHECKING:
    from course_utils.models.hardware import Hardware

PARTS = ("weights", "adapters", "gradients", "optimiser", "activations")
METHODS = ("inference-fp32", "inference-fp16", "inference-nf4", *formulas.TRAINING)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
BLOCK, BLOCK_OF_SCALES = 64, 256  # bitsandbytes' NF4: weights that share a scale, scales that share one more

# (shape, number format) -> a tensor: `torch.empty` under FakeTensorMode, or something with memory behind it
Maker = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]


class Ledger(TorchDispatchMode):
    """Counts the bytes of all storages that operators create while it is active, by part of PARTS.

    A storage counts until the last tensor on it is gone, as in PyTorch's own allocators. What an operator of
    bitsandbytes does inside is followed too, because a 4-bit product makes the whole 16-bit matrix there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter = Counter()
        self.peak: dict[str, int] = {}
        self.highest = self.total = 0
        self._open: dict[int, list] = {}  # storage -> [weak reference, bytes, part]
        self._inside = fake.four_bit_products()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator in self._inside:
            with self:
                return self._inside[operator](*args, **(kwargs or {}))
        result = operator(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._open:
            return
        size = storage.nbytes()
        self._open[key] = [weakref.ref(storage, lambda _: self._gone(key)), size, "activations"]
        self.now["activations"] += size
        self.total += size
        if self.total > self.highest:
            self.highest, self.peak = self.total, dict(self.now)

    def _gone(self, key: int) -> None:
        _, size, part = self._open.pop(key)
        self.now[part] -= size
        self.total -= size

    def label(self, tensor: torch.Tensor, part: str) -> None:
        """From now on the storage of `tensor` counts as `part`."""
        entry = self._open.get(tensor.untyped_storage()._cdata)
        if entry:
            self._move(entry, part)

    def label_rest(self, part: str) -> None:
        """Whatever is alive and has no other label counts as `part`."""
        for entry in self._open.values():
            if entry[2] == "activations":
                self._move(entry, part)

    def _move(self, entry: list, part: str) -> None:
        self.now[entry[2]] -= entry[1]
        entry[2] = part
        self.now[part] += entry[1]

    def start(self) -> dict[str, int]:
        """Forget the peak so far. Returns what is alive, by part."""
        self.highest, self.peak = self.total, dict(self.now)
        return dict(self.now)


# ---------------------------------------------------------------------------------------------- the model


def transformers_config(model: "str | Path | Architecture") -> Any:
    """The configuration with which transformers builds a model of this shape."""
    from transformers import AutoConfig

    a = shapes.architecture(model)
    kind = a.kind
    more = {"num_local_experts": a.experts, "num_experts_per_tok": a.active_experts} if kind == "mixtral" else {}
    more |= {"head_dim": a.head_dim} if a.head_dim else {}
    more |= {"sliding_window": None} if kind in ("mistral", "mixtral", "phi3") else {}
    return AutoConfig.for_model(
        kind,
        hidden_size=a.hidden,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        intermediate_size=a.intermediate,
        vocab_size=a.vocab,
        tie_word_embeddings=a.tied,
        max_position_embeddings=2**20,  # not a limit here: nothing has its size
        pad_token_id=0,
        **more,
    )


def skeleton(
    model: "str | Path | Architecture | Counted", method: str, dtype: torch.dtype, rank: int = 16
) -> nn.Module:
    """The model of transformers without memory (device "meta"), its 4-bit layers and adapters in their places.

    As the course trains: everything that is not 4-bit in fp32 for qlora; fp32 weights for full, multiplied in
    `dtype`; adapters in fp32.
    """
    stored = torch.float32 if method in ("full", "inference-fp32") else dtype
    built = _built(model, stored)
    if method in ("qlora", "inference-nf4"):
        built = fake.with_nf4_layers(built, dtype)
    if method == "qlora":
        built = compat.prepare_for_training(built)
    return compat.add_peft_lora(built, rank, 2 * rank) if method in ("lora", "qlora") else built


def _built(model: "str | Path | Architecture | Counted", dtype: torch.dtype) -> nn.Module:
    """The model without memory: of a shape, or of the configuration that was counted."""
    from transformers import AutoModelForCausalLM

    if not isinstance(model, Counted):
        model = shapes.architecture(model)
    if model.config:
        return counting.build(json.loads(model.config), dtype)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(transformers_config(model), dtype=dtype, attn_implementation="sdpa")


def fill(model: nn.Module, make: Maker) -> nn.Module:
    """Give every parameter and buffer of a skeleton a tensor from `make`. Tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is not None:
                if id(old) not in made:
                    made[id(old)] = _parameter(module, old, make)
                module._parameters[name] = made[id(old)]
        for name, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[name] = make(tuple(old.shape), old.dtype)
    return model


def _parameter(module: nn.Module, old: nn.Parameter, make: Maker) -> nn.Parameter:
    if not hasattr(old, "quant_type"):
        return nn.Parameter(make(tuple(old.shape), old.dtype), requires_grad=old.requires_grad)
    weights = math.prod(old.shape)
    blocks = weights // BLOCK
    codes = make((weights // 2, 1), torch.uint8)
    scales = make((blocks,), torch.uint8), make((math.ceil(blocks / BLOCK_OF_SCALES),), torch.float32)
    tables = make((16,), torch.float32), make((256,), torch.float32), make((), torch.float32)
    return fake.nf4_parameter(module, tuple(old.shape), codes, scales, tables)


# ---------------------------------------------------------------------------------------------- the step


@dataclass(frozen=True)
class Step:
    """One step: `batch` sequences of `seq` tokens through a model of this shape.

    Training: forward, loss, backward, gradients clipped, AdamW, with its state there from steps before. With
    `accumulate` the gradients are there before, too. `fused_head` is TRL's way to the loss, which never holds all
    the scores over the vocabulary. `padded`: sequences differ in length, which takes a mask of tokens x tokens.
    Inference: the `seq` tokens are read at once, with a KV cache.
    """

    shape: Architecture | Counted
    method: str
    seq: int = 512
    batch: int = 1
    rank: int = 16
    checkpointing: bool = True
    optimiser: str = "adamw"
    dtype: str = "bfloat16"
    fused_head: bool = False
    accumulate: bool = False
    padded: bool = False

    def skeleton(self) -> nn.Module:
        """The model without memory, and TRL's head in it if it is wanted."""
        empty = skeleton(self.shape, self.method, DTYPES[self.dtype], self.rank)
        if self.fused_head:
            compat.add_fused_head(empty)
        return empty

    def run(self, empty: nn.Module, make: Maker, ledger: Ledger, started: Callable[[], Any]) -> Any:
        """Fill the skeleton with tensors from `make`, on whichever device that is, and run the step.

        `started` is called when all that lasts is there, before the step begins. Returns what it returns.
        """
        model = fill(empty, make)
        ledger.label_rest("weights")
        if self.method.startswith("inference"):
            at_rest = started()
            with torch.no_grad():
                model.eval()(input_ids=self._ids(model), use_cache=True, logits_to_keep=1)
            return at_rest
        trained, optimiser = self._prepare(model, ledger)
        at_rest = started()
        self._loss(model).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        return at_rest

    def _prepare(self, model: nn.Module, ledger: Ledger) -> tuple[list[nn.Parameter], Any]:
        """The trained parameters and their optimiser, as they are after a step before this one."""
        if self.checkpointing:
            compat.checkpoint(model)
        trained = [p for p in model.train().parameters() if p.requires_grad]
        for p in trained:
            if self.method != "full":
                ledger.label(p, "adapters")
            p.grad = torch.zeros_like(p)
            ledger.label(p.grad, "gradients")
            p.register_post_accumulate_grad_hook(lambda p: ledger.label(p.grad, "gradients"))
        optimiser = fake.adamw(trained, eight_bit=self.optimiser == "adamw-8bit")
        optimiser.step()
        ledger.label_rest("optimiser")
        if not self.accumulate:
            optimiser.zero_grad()
        return trained, optimiser

    def _loss(self, model: nn.Module) -> torch.Tensor:
        ids = self._ids(model)
        more = {"fused_lm_head": True} if self.fused_head else {}
        if self.padded:
            mask = torch.ones_like(ids)
            mask[0, -1] = 0  # one token to leave out is enough
            more["attention_mask"] = mask
        with torch.autocast(ids.device.type, DTYPES[self.dtype], enabled=self.dtype != "float32"):
            return model(input_ids=ids, labels=ids, use_cache=False, **more).loss

    def _ids(self, model: nn.Module) -> torch.Tensor:
        return torch.zeros(self.batch, self.seq, dtype=torch.long, device=next(model.parameters()).device)


# ---------------------------------------------------------------------------------------------- the result


@dataclass(frozen=True)
class Simulation:
    """What a simulated step holds, in GiB by part: before it starts, and at its peak."""

    step: Step
    at_rest: dict[str, float]
    at_peak: dict[str, float]
    seconds: float

    @property
    def rest(self) -> float:
        return sum(self.at_rest.values())

    @property
    def peak(self) -> float:
        """GiB of all tensors at the peak."""
        return sum(self.at_peak.values())

    @property
    def total(self) -> float:
        """GiB that a card must have free: the peak, and the estimate's margin for the runtime."""
        return formulas.with_margin(self.peak)

    def rows(self) -> list[dict]:
        """One dictionary per part, and the total, for a table."""
        parts = [part for part in PARTS if self.at_rest[part] or self.at_peak[part]]
        rows = [{"part": p, "at rest (GiB)": self.at_rest[p], "at the peak (GiB)": self.at_peak[p]} for p in parts]
        return [*rows, {"part": "all tensors", "at rest (GiB)": self.rest, "at the peak (GiB)": self.peak}]


def simulate(
    model: "str | Path | Architecture | Counted", method: str = "qlora", seq: int = 512, batch: int = 1, **more: Any
) -> Simulation:
    """Simulate one step; `more` are further fields of `Step`.

    Takes seconds, the same for any size of the tensors. Raises ValueError for a method that it can't run (formulas
    for those are in `formulas`), for unknown names and for sizes below 1; and, for a model that was counted, if it
    cannot run without numbers.
    """
    if not isinstance(model, Counted):
        model = shapes.architecture(model)
    step = Step(model, method, seq, batch, **more)
    _check(step)
    try:
        return run(step)
    except Exception as error:
        if not model.config:
            raise
        # Any kind of model may ask for what only numbers tell.
        raise ValueError(f"{model.kind!r} can't be simulated ({type(error).__name__}: {first_line(error)}).") from error


def _check(step: Step) -> None:
    """ValueError for a step that can't be simulated."""
    formulas.check(step.method, step.optimiser, seq=step.seq, batch=step.batch, rank=step.rank)
    if step.method not in METHODS:
        raise ValueError(f"{step.method} can't be simulated, only estimated. These can: {', '.join(METHODS)}.")
    if not step.shape.config and step.shape.experts > 1:
        raise ValueError("A mixture of experts can't be simulated: which expert is asked depends on the numbers.")
    if step.dtype not in DTYPES:
        raise ValueError(f"No number format {step.dtype!r}. Known: {', '.join(DTYPES)}.")


@functools.lru_cache(maxsize=256)
def run(step: Step) -> Simulation:
    """`step` on fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    began = time.perf_counter()
    empty = step.skeleton()
    with fake.equal_lengths(), FakeTensorMode(), Ledger() as ledger:
        at_rest = step.run(empty, _empty, ledger, ledger.start)
    return Simulation(step, _gib(at_rest), _gib(ledger.peak), time.perf_counter() - began)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _gib(sizes: dict[str, int]) -> dict[str, float]:
    return {part: sizes.get(part, 0) / GIB for part in PARTS}


# ---------------------------------------------------------------------------------------------- does it fit?


def side_by_side(simulation: Simulation) -> list[dict]:
    """The formula and the simulation of the same step by part, in GiB; rows for a table."""
    e = formula(simulation.step)
    working = e.activations + e.logits + e.kv_cache + e.dequantised
    predicted = dict(zip(PARTS, (e.weights, e.adapters, e.gradients, e.optimiser_state, working), strict=True))
    rows = [
        {"part": part, "formula": predicted[part], "at rest": simulation.at_rest[part], "at the peak": at_peak}
        for part, at_peak in simulation.at_peak.items()
        if predicted[part] or at_peak
    ]
    sums = {"part": "all tensors", "formula": e.tensors, "at rest": simulation.rest, "at the peak": simulation.peak}
    beyond = {
        "part": "runtime (a rule)",
        "formula": e.margin,
        "at rest": "",
        "at the peak": simulation.total - simulation.peak,
    }
    total = {"part": "total", "formula": e.total, "at rest": "", "at the peak": simulation.total}
    return [*rows, sums, beyond, total]


def formula(step: Step) -> formulas.Estimate:
    """`formulas.estimate` of the same step."""
    sizes = (step.seq, step.batch, step.rank)
    way = {"checkpointing": step.checkpointing, "optimiser": step.optimiser}
    return formulas.estimate(step.shape, step.method, *sizes, **way)


def fits(simulation: Simulation, place: "str | float | shapes.Gpu | Hardware") -> fit.Verdict:
    """Like `fit.fits`, by simulation; also the advice is simulated, where the formula says it may help."""
    name, available = fit.available_in(place)
    fits = simulation.total <= available
    advice = () if fits else tuple(_advice(simulation, available))
    return fit.Verdict(fits, simulation.total, available, name, advice)


def _advice(simulation: Simulation, available: float) -> list[str]:
    needed, found = formula(simulation.step), []
    for text, settings in fit.options(needed):
        if needed.change(**settings).total <= 1.05 * available:
            changed = run(dataclasses.replace(simulation.step, **settings)).total
            found += [f"{text}: {changed:.1f} GiB"] if changed <= available else []
    return found or [f"{line} (by the formula)" for line in fit.fits(needed, available).advice]


def largest_tokens(step: Step, available: float) -> int:
    """How many tokens at a time (batch x seq) fit into `available` GiB, by simulation; 0 if none do.

    The peak is the largest of several sums, each linear in the tokens and in the layers. So it is a convex function
    of both: between three numbers of tokens a straight line errs on the safe side, and few layers show how much one
    more takes.
    """
    points = [(n, quick_total(dataclasses.replace(step, batch=1, seq=n))) for n in (64, 2048, 32768)]
    if available < points[0][1]:
        return 0
    for (n0, need0), (n1, need1) in zip(points, points[1:], strict=False):
        if available <= need1 or n1 == points[-1][0]:
            return int(n0 + (available - need0) * (n1 - n0) / (need1 - need0))
    raise AssertionError("there is always a last pair of points")


FEW, MORE = 2, 6  # layers of the two models that stand for a deeper one


def quick_total(step: Step) -> float:
    """`run(step).total` from the same model with fewer layers: several times faster, and less than 2 % off."""
    layers = step.shape.layers
    if layers <= MORE or step.shape.config:  # layers of a configuration may differ from each other
        return run(step).total
    low, high = (run(dataclasses.replace(step, shape=_with_layers(step.shape, n))).total for n in (FEW, MORE))
    return high + (layers - MORE) * (high - low) / (MORE - FEW)


def _with_layers(shape: Architecture, layers: int) -> Architecture:
    return dataclasses.replace(shape, layers=layers, parameters=None)


def largest(
    model: "str | Path | Architecture", method: str, places: "Sequence[str | float | Hardware]", seq: int = 512
) -> list[dict]:
    """For each place: the largest batch of `seq` tokens and the longest sequence at batch 1; rows for a table.

    By the formula and by simulation. "-" where not even 64 tokens fit.
    """
    step, rows = Step(shapes.architecture(model), method), []
    formulas.check(method, step.optimiser, seq=seq)
    simulated = method in METHODS and (step.shape.experts == 1 or bool(step.shape.config))
    for name, available in map(fit.available_in, places):
        row = {"card": name, "GiB": available}
        row |= _room("formula", _largest_by_formula(step, available), seq)
        rows.append(row | (_room("simulated", largest_tokens(step, available), seq) if simulated else {}))
    return rows


def _room(how: str, tokens: int, seq: int) -> dict:
    return {
        f"batch of {seq}, {how}": tokens // seq if tokens >= seq else "-",
        f"one sequence, {how}": tokens // 64 * 64 if tokens >= 64 else "-",
    }


def _largest_by_formula(step: Step, available: float) -> int:
    def total(seq: int) -> float:
        return formula(dataclasses.replace(step, seq=seq)).total

    return bisect.bisect_right(range(1, 2**30 + 1), available, key=total)
