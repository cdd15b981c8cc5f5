"""Formula, simulation and measurement of the same step, side by side: `course bench vram`.

On an NVIDIA card: a 7B model, and `torch.cuda.max_memory_allocated`. Without one: smaller models on the CPU, where
three independent things are read while the step of `memory/simulate.py` runs on real tensors:

- counted: the simulation's own ledger, now on real storages. Differs if fake and real tensors differ.
- allocated: PyTorch's allocator, from the log that its profiler keeps. Sees what kernels take inside, too.
- resident: what the operating system says the process holds, in a process of its own. Sees everything.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from course_utils.memory import formulas, shapes, simulate
from course_utils.memory.shapes import GIB
from course_utils.memory.simulate import Ledger, Step
from course_utils.models import hardware

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# For a process whose memory is measured: glibc takes every block of 64 KiB or more from the operating system and gives
# it back at once, and oneDNN keeps none of its products, whose copies of operands are 1 to 2 % of these steps.
HONEST_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0",
    "OMP_NUM_THREADS": "1",
    "THP_MEM_ALLOC_ENABLE": "0",  # whole pages of 2 MiB
}


@dataclass(frozen=True)
class Comparison:
    """Peaks of one step in GiB. `measured` is the allocator's, the others are None where they can't be had."""

    step: Step
    predicted: float
    simulated: float
    measured: float
    counted: float | None = None
    resident: float | None = None

    @property
    def error(self) -> float:
        """Of the simulation, as a share of what was measured."""
        return self.simulated / self.measured - 1

    def row(self) -> dict:
        """For a table."""
        s = self.step
        checkpoints = ""
        if s.method in formulas.TRAINING:
            checkpoints = "on" if s.checkpointing else "off"
        row = {"model": s.shape.id, "method": s.method, "layers": s.shape.layers, "tokens": s.seq, "batch": s.batch}
        row |= {"checkpointing": checkpoints, "formula": self.predicted, "simulated": self.simulated}
        row["measured"] = self.measured
        if self.resident is not None:
            row["resident"] = self.resident
        row["error"] = f"{self.error:+.1%}"
        return row


# ---------------------------------------------------------------------------------------------- what is measured


def small_steps() -> list[Step]:
    """Steps for a CPU: Mistral's layers at a quarter of the width, four deep, and Qwen's smallest."""
    shape = reduced("mistral-7b")
    qwen = dataclasses.replace(shapes.architecture("qwen2.5-0.5b"), layers=3)
    dtype = quick_dtype()
    return [
        Step(shape, "qlora", 512, 1, dtype=dtype),
        Step(shape, "qlora", 512, 1, checkpointing=False, dtype=dtype),
        Step(shape, "qlora", 256, 4, dtype=dtype),
        Step(shape, "lora", 512, 1, dtype=dtype),
        Step(shape, "lora", 1024, 1, checkpointing=False, dtype=dtype),
        Step(shape, "full", 512, 1, dtype="float32"),
        Step(qwen, "qlora", 256, 1, dtype=dtype),
        Step(qwen, "lora", 256, 2, checkpointing=False, dtype=dtype),
        Step(shape, "inference-fp16", 1024, 1),
        Step(shape, "inference-nf4", 1024, 1),
    ]


def quick_dtype() -> str:
    """The number format in which this CPU measures in seconds: bfloat16 if it has units for it."""
    return "bfloat16" if hardware.multiplies_bfloat16("cpu") else "float32"


def large_steps() -> list[Step]:
    """Steps for a card: QLoRA of 7B models over length, batch and checkpointing, and LoRA."""
    mistral = shapes.architecture("mistral-7b")
    qwen = shapes.architecture("qwen2.5-7b")
    return [
        Step(mistral, "qlora", 512, 1),
        Step(mistral, "qlora", 512, 1, checkpointing=False),
        Step(mistral, "qlora", 512, 4),
        Step(mistral, "qlora", 2048, 1),
        Step(mistral, "qlora", 1024, 2, optimiser="adamw-8bit"),
        Step(qwen, "qlora", 512, 1),
        Step(qwen, "qlora", 512, 4),
        Step(qwen, "qlora", 512, 4, fused_head=True),
        Step(mistral, "lora", 512, 1),
        Step(mistral, "inference-nf4", 2048, 1),
    ]


def reduced(model: str, layers: int = 4, divisor: int = 4) -> shapes.Architecture:
    """The shape of `model` with fewer layers, each matrix and the vocabulary `divisor` times narrower."""
    a = shapes.architecture(model)
    return dataclasses.replace(
        a,
        id=f"{a.id}, 1/{divisor} wide",
        layers=layers,
        hidden=a.hidden // divisor,
        heads=a.heads // divisor,
        kv_heads=a.kv_heads // divisor,
        intermediate=a.intermediate // divisor,
        vocab=a.vocab // divisor,
        parameters=None,
    )


def touched(device: str = "cpu") -> simulate.Maker:
    """Makes tensors with memory behind every number of them."""

    def make(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.full(shape, 0.01 if dtype.is_floating_point else 1, dtype=dtype, device=device)

    return make


# ---------------------------------------------------------------------------------------------- measuring


def on_cuda(step: Step) -> float:
    """GiB at the peak, by PyTorch's allocator, of the step on the GPU. Runs it on random weights of no meaning."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()  # cuBLAS' workspace and what else earlier steps left
    step.run(step.skeleton(), touched("cuda"), Ledger(), torch.cuda.reset_peak_memory_stats)
    return (torch.cuda.max_memory_allocated() - before) / GIB


def counted(step: Step) -> float:
    """GiB at the peak, by the ledger, of the step on real tensors on the CPU."""
    empty = step.skeleton()
    with Ledger() as ledger:
        step.run(empty, touched(), ledger, ledger.start)
    return ledger.highest / GIB


def allocated(step: Step) -> float:
    """GiB at the peak, by PyTorch's CPU allocator, of the step on real tensors."""
    from torch.profiler import ProfilerActivity, profile

    empty = step.skeleton()
    marks: list[torch.Tensor] = []
    gc.collect()  # what dies of old age meanwhile would count as given back
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step.run(empty, touched(), Ledger(), lambda: marks.append(torch.zeros(MARK, dtype=torch.uint8)))
    events = log.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    now = peak = 0
    for _, size in sorted(changes):
        now += size
        peak = now if size == MARK else max(peak, now)  # what came before the mark was preparation
    return (peak - MARK) / GIB


MARK = 7_777_777  # bytes of a tensor that tells in the allocator's log where the step begins


def resident(steps: Sequence[Step]) -> list[float] | None:
    """GiB by which each step makes a process grow, by the operating system. None where it does not tell (Linux does).

    In a process of its own, whose libraries give memory back at once. A first small step makes them allocate what
    they keep all the same.
    """
    if not os.access(CLEAR, os.W_OK):
        return None
    fields = [dataclasses.asdict(step) for step in steps]
    done = subprocess.run(
        [sys.executable, "-m", "course_utils.memory.measurement"],
        input=json.dumps(fields),
        env=os.environ | HONEST_MEMORY,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"The process that was to be measured failed: {done.stderr[-1000:]}")
    last = done.stdout.splitlines()[-1]
    return json.loads(last)


def _grow(step: Step) -> float:
    """In the process that is measured: GiB from before the model was made to the peak of its step."""
    _give_back()
    before = _kib("VmRSS")
    step.run(step.skeleton(), touched(), Ledger(), lambda: CLEAR.write_text("5"))  # 5: forget the peak so far
    return (_kib("VmHWM") - before) * 1024 / GIB


def _give_back() -> None:
    """Returns to the operating system what this process no longer uses, where that can be asked for."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _kib(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    line = next(line for line in lines if line.startswith(name))
    return int(line.split()[1])


@dataclass
class Peak:
    """GiB held before a block and at its peak. Both 0 where the operating system does not tell (Linux does)."""

    before: float = 0.0
    highest: float = 0.0


@contextlib.contextmanager
def peak_watch(device: str) -> Iterator[Peak]:
    """A Peak whose `highest` is filled in once the block is done.

    "cuda": of all tensors, by PyTorch's allocator. "cpu": of this whole process, resident, libraries included (where
    the operating system does not let the peak be reset, since the process began).
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        found = Peak(before=torch.cuda.memory_allocated() / GIB)
        yield found
        found.highest = torch.cuda.max_memory_allocated() / GIB
        return
    _give_back()
    if os.access(CLEAR, os.W_OK):
        CLEAR.write_text("5")
    found = Peak(before=_resident_gib("VmRSS"))
    yield found
    found.highest = _resident_gib("VmHWM")


def _resident_gib(name: str) -> float:
    if not STATUS.exists():
        return 0.0
    return _kib(name) * 1024 / GIB


# ---------------------------------------------------------------------------------------------- side by side


def compare(steps: Sequence[Step], cuda: bool) -> list[Comparison]:
    """Predict, simulate and measure every step, on the GPU or on the CPU."""
    grown = None if cuda else resident(steps)
    comparisons = []
    for step, size in zip(steps, grown or [None] * len(steps), strict=True):
        measured = on_cuda(step) if cuda else allocated(step)
        real = None if cuda else counted(step)
        predicted = simulate.formula(step).tensors
        simulated = simulate.run(step).peak
        comparisons.append(Comparison(step, predicted, simulated, measured, real, size))
    return comparisons


def _read_steps(text: str) -> Iterator[Step]:
    for fields in json.loads(text):
        yield Step(**{**fields, "shape": shapes.Architecture(**fields["shape"])})


if __name__ == "__main__":
    wanted = list(_read_steps(sys.stdin.read()))
    for method in {step.method for step in wanted}:
        _grow(Step(reduced("mistral-7b", layers=1, divisor=8), method, 64, 1))
    print(json.dumps([_grow(step) for step in wanted]))
