"""Fine-tune a model of 7B shape without having one: the code is real, the weights are random.

    course dryrun-7b

The 4-bit weights are drawn as packed codes, so nothing has to be downloaded or quantised. From there on it is the
full tier of Unit 7.5: `sft.make_trainer` and `sft.train`. It answers whether this machine can do it,
how fast and in how much memory. It can't answer what the model would learn: random weights know nothing.
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils import compat
from course_utils.finetuning import four_bit, qlora, sft
from course_utils.finetuning.qlora import NotEnoughMemoryError
from course_utils.memory import formulas, shapes, simulate
from course_utils.memory.measurement import peak_watch
from course_utils.models import loaders
from course_utils.models.hardware import Hardware
from course_utils.models.roles import Chat
from course_utils.prisma import conversations, lm

SPREAD = 0.02  # standard deviation of the weights: that of freshly initialised Llamas
PROCESS_GIB = 1.5  # Python and its libraries, besides the tensors
WARM_UP = 1  # steps before those that are timed: in the first, libraries prepare their kernels

# ---------------------------------------------------------------- random weights in 4 bits


@dataclass(frozen=True)
class Samples:
    """What bitsandbytes makes of normally distributed weights: typical bytes of codes and of scales, and tables."""

    codes: bytes  # 256 of them, each as likely as the others
    scales: bytes
    scale_of_scales: float
    levels: torch.Tensor
    scale_levels: torch.Tensor
    offset: torch.Tensor


def samples(seed: int = 7) -> Samples:
    """Quantise a million normal numbers and keep 256 typical bytes of the result."""
    from bitsandbytes.functional import quantize_4bit

    numbers = torch.randn(2**20, generator=torch.Generator().manual_seed(seed)) * SPREAD
    packed, state = quantize_4bit(numbers, quant_type="nf4", compress_statistics=True)
    state2 = state.state2
    return Samples(
        _typical(packed), _typical(state.absmax), float(state2.absmax.mean()), state.code, state2.code, state.offset
    )


def _typical(values: torch.Tensor) -> bytes:
    """256 bytes spread like `values`: every n-th of them in order."""
    ordered = np.sort(values.flatten().numpy())
    return ordered[np.linspace(0, len(ordered) - 1, 256).round().astype(int)].tobytes()


def draw(model: nn.Module, seed: int = 7) -> nn.Module:
    """Give a filled model random weights: 4-bit ones as packed codes, the others normal, norms one."""
    typical, rng = samples(seed), np.random.Generator(np.random.SFC64(seed))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if getattr(p, "quant_state", None) is not None:
            _draw_nf4(p, typical, rng)
        elif p.dim() == 1:
            nn.init.ones_(p)
        else:
            p.data.copy_(torch.empty(p.shape).normal_(std=SPREAD, generator=generator))
    for module in model.modules():
        if hasattr(module, "inv_freq"):  # of the rotary positions, worked out from the configuration
            fresh = type(module)(model.config)
            for name, buffer in module.named_buffers():
                buffer.copy_(fresh.get_buffer(name))
    return model


def _draw_nf4(p: nn.Parameter, typical: Samples, rng: np.random.Generator) -> None:
    """Each byte is one of 256 typical ones: two codes, or the scale of a block."""
    state = p.quant_state
    for target, table in ((p.data, typical.codes), (state.absmax, typical.scales)):
        drawn = bytearray(rng.bytes(target.numel()).translate(table))
        target.copy_(torch.frombuffer(drawn, dtype=torch.uint8).view(target.shape))
    state.state2.absmax.fill_(typical.scale_of_scales)
    for target, source in (
        (state.code, typical.levels),
        (state.state2.code, typical.scale_levels),
        (state.offset, typical.offset),
    ):
        target.copy_(source)


def build(shape: shapes.Architecture, dtype: torch.dtype, device: str, seed: int = 7) -> Chat:
    """A model of this shape in NF4 with random weights, and the tokenizer of prisma-lm, which it has room for."""
    empty = simulate.skeleton(shape, "inference-nf4", dtype)
    model = simulate.fill(empty, lambda size, kind: torch.empty(size, dtype=kind, device=device))
    return Chat(draw(model, seed).eval(), lm.build_tokenizer(), f"{shape.id}, random weights", "full")


# ---------------------------------------------------------------- the run


@dataclass(frozen=True)
class Report:
    """Seconds, tokens per second (of each step) and GiB of a dry run.

    `peak` is of the whole process, `before` what it held when the run began: only the difference is the run's own, and
    compares with `simulated`. Both are 0 where the operating system does not tell.
    """

    model: str
    place: str
    layers: int
    tokens: int
    build_seconds: float
    losses: list[float]
    tokens_per_second: list[float]
    peak: float
    simulated: float
    plain_tokens_per_second: list[float] | None = None
    before: float = 0.0

    def __str__(self) -> str:
        speeds = ", ".join(f"{speed:.1f}" for speed in self.tokens_per_second)
        lines = [
            f"{self.model}, layers: {self.layers}, on {self.place}. The weights are RANDOM: speed and memory are real, "
            "the loss means nothing.",
            f"built in {self.build_seconds:.0f} s",
            f"after a step to warm up, {self.tokens} tokens each: {speeds} tokens/s",
            *self._memory(),
        ]
        if self.plain_tokens_per_second:
            speeds = ", ".join(f"{speed:.1f}" for speed in self.plain_tokens_per_second)
            lines.append(f"plain PEFT and bitsandbytes code, the same steps: {speeds} tokens/s")
        return "\n".join(lines)

    def _memory(self) -> list[str]:
        simulated = f"simulated, tensors only: {self.simulated:.2f} GiB"
        if not self.peak:
            return [f"this system does not tell how much memory a process took at its peak; {simulated}"]
        earlier = f"{self.before:.2f} of them from before (Python, its libraries, earlier work)"
        took = self.peak - self.before
        return [f"peak memory {self.peak:.2f} GiB, {earlier}", f"so the run itself took {took:.2f} GiB; {simulated}"]


def run(
    hardware: Hardware,
    model: str | shapes.Architecture = "mistral-7b",
    layers: int | None = None,
    steps: int = 2,
    tokens: int = 256,
    plain: bool = False,
) -> Report:
    """QLoRA for some steps of one sequence of `tokens` tokens each, rank 16, alpha 32, with checkpointing.

    One step more comes first, to warm up. `layers`: only so many. `plain`: afterwards the same steps with PEFT and
    bitsandbytes alone. Raises NotEnoughMemoryError before anything is made if it would not fit.
    """
    loaders.quiet_libraries()
    shape = shapes.architecture(model)
    shape, count = dataclasses.replace(shape, layers=layers or shape.layers), WARM_UP + steps
    device, dtype = four_bit.training_device(hardware), four_bit.training_dtype(hardware)
    # Saved seldom, once in a short run: writing half a gigabyte after each step would slow down the next one.
    recipe = dataclasses.replace(
        qlora.RECIPES["full"],
        conversations=count,
        epochs=1,
        batch=1,
        at_once=1,
        max_length=tokens,
        measured=1 + count // 10,
    )
    simulated = simulate.run(qlora.trainer_step(shape, recipe, device == "cuda", str(dtype)[6:])).peak
    _check(simulated, hardware, device)
    with peak_watch(device) as peak, tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        chat = build(shape, dtype, device)
        built = time.perf_counter() - started
        trainer = sft.trainer_of(chat, texts(count, tokens), texts(1, tokens), recipe, hardware, Path(folder))
        speeds = _timed(trainer, tokens)
        sft.train(trainer)
        losses = [loss for _, loss in sft.curves(trainer)["training"]][WARM_UP:]
    place = hardware.gpu if device == "cuda" else f"{hardware.cores} CPU cores"
    report = Report(
        chat.name,
        place,
        shape.layers,
        tokens,
        built,
        losses,
        speeds[WARM_UP:],
        peak.highest,
        simulated,
        before=peak.before,
    )
    if not plain:
        return report
    rows = [trainer.train_dataset[i] for i in range(count)]
    base, device = trainer.model.unload(), trainer.model.device
    del trainer, chat
    gc.collect()
    return dataclasses.replace(report, plain_tokens_per_second=plain_steps(base, rows, device, dtype)[WARM_UP:])


def _check(simulated: float, hardware: Hardware, device: str) -> None:
    wanted = simulated + (formulas.RUNTIME_GIB if device == "cuda" else PROCESS_GIB)
    if wanted > hardware.free_gb:
        raise NotEnoughMemoryError(
            f"The dry run needs {wanted:.1f} GiB and {hardware.free_gb:.1f} are free. Close other programs, or ask for "
            "fewer layers: --layers 4."
        )


def texts(count: int, tokens: int) -> list[dict]:
    """Rows for the trainer, each longer than `tokens`: a word, and the replies of several conversations.

    The word is short, so that some of the reply is left to learn however few the tokens are.
    """
    talks = conversations.make_conversations(200)
    long = " ".join(talk.reply for talk in talks[: 2 + tokens // 40])
    return [
        {
            "prompt": [{"role": "user", "content": "hello"}],
            "completion": [{"role": "assistant", "content": f"{talk.reply} {long}"}],
        }
        for talk in (talks * count)[:count]
    ]


def _timed(trainer: Any, tokens: int) -> list[float]:
    """A list that will hold the tokens per second of each step."""
    from transformers import TrainerCallback

    speeds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait()
            speeds.append(tokens / (time.perf_counter() - self.started))

    trainer.add_callback(Clock())
    return speeds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plain_steps(model: nn.Module, rows: list[dict], device: torch.device, dtype: torch.dtype) -> list[float]:
    """Tokens per second of each step, as the libraries' own examples train: the loop to compare with."""
    model = compat.add_peft_lora(compat.prepare_for_training(model), 16, 32)
    compat.checkpoint(model)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser, speeds = torch.optim.AdamW(trained, lr=2e-4), []
    for row in rows:
        ids, labels = row["input_ids"], compat.labels_of(row)
        batch = {"input_ids": torch.tensor([ids], device=device), "labels": torch.tensor([labels], device=device)}
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        _wait()
        speeds.append(batch["input_ids"].numel() / (time.perf_counter() - started))
    return speeds
