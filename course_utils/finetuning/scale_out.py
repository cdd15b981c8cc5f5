"""Unit 7.5: one training run on one process or several, with the same losses: DDP, Accelerate, FSDP.

    scale_out.launch(["ddp", "fsdp"], processes=2)

starts this file as a program, once for each process. They find each other through a file, and talk over loopback.
Where there are as many GPUs as processes, each gets one; else all are on the CPU (backend gloo).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from course_utils import ranks
from course_utils.settings import SEED

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from course_utils.prisma.lm import Row

MODES = ("single", "ddp", "accelerate", "fsdp")
TIMEOUT = 300  # seconds for all modes of a launch


@dataclass(frozen=True)
class Report:
    """What one process saw: the loss of each step over the whole batch, its tensors in bytes, seconds a step."""

    mode: str
    rank: int
    processes: int
    device: str
    losses: list[float]
    parameters: int
    gradients: int
    optimiser: int
    seconds: list[float]
    fingerprint: float  # the sum of all weights' absolute values after training

    @property
    def bytes(self) -> int:
        """All that is kept from step to step."""
        return self.parameters + self.gradients + self.optimiser


# ---------------------------------------------------------------- data


def rows(tokenizer: Any, n: int) -> list[Row]:
    """The first `n` training conversations, with the loss on the reply only."""
    from course_utils.prisma import conversations, lm
    from course_utils.prisma.text import Example

    talks = conversations.make_conversations(max(100, 2 * n))
    train = conversations.by_split(talks)["train"]
    encoded = []
    for talk in train[:n]:
        asked = tokenizer.apply_chat_template(talk.prompt, tokenize=False, add_generation_prompt=True)
        example = Example("support", ((asked, False), (talk.reply + tokenizer.eos_token, True)))
        encoded.append(lm.encode(tokenizer, example))
    return encoded


def padded(part: Sequence[Row], pad: int, device: Any = "cpu") -> dict[str, Tensor]:
    """A batch on `device`: token ids, labels and attention mask, (rows, longest)."""
    from course_utils.prisma import lm

    return {name: one.to(device) for name, one in lm.collate(part, pad).items()}


def learned(part: Iterable[Row]) -> int:
    """How many tokens the loss counts."""
    from course_utils.prisma.lm import IGNORED

    count = 0
    for _, labels in part:
        count += sum(label != IGNORED for label in labels[1:])
    return count


# ---------------------------------------------------------------- one step, however many hands


def loss_sum(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy summed over the tokens that count (nats)."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    predicted = logits[:, :-1].flatten(0, 1).float()  # (rows * (t - 1), vocabulary)
    wanted = batch["labels"][:, 1:].flatten()
    return cross_entropy(predicted, wanted, reduction="sum")


def backward(
    model: nn.Module,
    parts: Sequence[dict[str, Tensor]],
    tokens: int,
    processes: int = 1,
) -> Tensor:
    """Add up the gradient of the mean loss over a batch of `tokens` counted tokens, part by part.

    DDP and FSDP average gradients over the processes; times `processes`, the average is the sum
    again. Returns this process's share of the mean loss.
    """
    total = 0.0
    for part in parts:
        loss = loss_sum(model, part) / tokens
        (loss * processes).backward()
        total = total + loss.detach()
    return total


# ---------------------------------------------------------------- the four ways


def wrap(mode: str, model: nn.Module) -> nn.Module:
    """`model` made ready for `mode`: as it is, a copy on each process, or cut into pieces over the processes."""
    if mode == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    if mode == "accelerate":
        from accelerate import Accelerator

        return Accelerator(cpu=model.device.type == "cpu").prepare(model)
    if mode == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for layer in model.model.layers:  # a layer is gathered when it is needed, and let go again
            fully_shard(layer)
        return fully_shard(model)
    return model


def _local(tensor: Tensor) -> Tensor:
    """The piece of a tensor that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sizes(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of parameters, gradients and optimiser state on this process."""
    import torch

    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    states: list[Tensor] = []
    for state in optimiser.state.values():
        states += [value for value in state.values() if torch.is_tensor(value)]
    return {"parameters": _bytes(parameters), "gradients": _bytes(gradients), "optimiser": _bytes(states)}


def _bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of the pieces that this process holds."""
    return sum(_local(tensor).nbytes for tensor in tensors)


def train(mode: str, steps: int, batch: int, pieces: int = 1, rank: int = 0, processes: int = 1) -> Report:
    """Full fine-tuning of prisma-lm for `steps` of `batch` conversations, cut into `pieces` on each process.

    Every process makes the same rows and takes its own: the batch is the same however it is cut. ValueError if
    a piece would be empty.
    """
    import torch

    from course_utils.models import bundled
    from course_utils.prisma import lm

    model, tokenizer = lm.load(bundled.folder("prisma-lm"))
    device = _device(rank, processes)
    model = wrap(mode, model.to(device).train())
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, foreach=False)
    everything = rows(tokenizer, steps * batch)
    losses, seconds, held = [], [], {}
    for step in range(steps):
        start = step * batch
        whole = everything[start : start + batch]
        cut = _pieces(whole, pieces, rank, processes)
        parts = [padded(part, tokenizer.pad_token_id, device) for part in cut]
        started = time.perf_counter()
        share = backward(model, parts, learned(whole), processes)
        optimiser.step()
        held = sizes(model, optimiser)
        optimiser.zero_grad()
        losses.append(_added_up(share, processes))
        seconds.append(time.perf_counter() - started)
    mark = sum(_absolute_sum(parameter) for parameter in model.parameters())
    return Report(mode, rank, processes, str(device), losses, seconds=seconds, fingerprint=mark, **held)


def _pieces(whole: Sequence[Row], pieces: int, rank: int, processes: int) -> list[Sequence[Row]]:
    """This process's rows of a batch, in `pieces`."""
    mine = whole[rank::processes]
    if len(mine) < pieces:
        raise ValueError(f"process {rank} has {len(mine)} of {len(whole)} conversations, too few for {pieces} piece(s)")
    return [mine[i::pieces] for i in range(pieces)]


def _added_up(share: Tensor, processes: int) -> float:
    if processes > 1:
        import torch.distributed as dist

        dist.all_reduce(share)
    return float(share)


def _device(rank: int, processes: int) -> torch.device:
    import torch

    gpus = torch.cuda.device_count()
    return torch.device("cuda", rank) if gpus >= processes > 1 else torch.device("cpu")


# ---------------------------------------------------------------- processes


def launch(modes: Sequence[str], processes: int = 2, steps: int = 8, batch: int = 8) -> list[Report]:
    """Run each mode on `processes` processes; a report from each, mode by mode, rank by rank.

    ranks.RanksError if a process fails or the time is over; no process is left behind.
    """
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": str(threads)}  # Accelerate asks for the first
    line = [*modes, "--steps", str(steps), "--batch", str(batch)]
    told = ranks.launch("course_utils.finetuning.scale_out", line, processes, TIMEOUT, environment)
    reports = []
    for of_a_mode in zip(*told, strict=True):  # what each rank says of it
        reports += [Report(**words) for words in of_a_mode]
    return reports


def _absolute_sum(parameter: Tensor) -> float:
    """The sum of a parameter's absolute values, gathered from all processes."""
    whole = _whole(parameter.detach())
    return float(whole.double().abs().sum())


def main() -> None:
    """The program that `launch` starts: one process of a run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("modes", nargs="+", choices=MODES)
    for name in ("--steps", "--batch"):
        parser.add_argument(name, type=int, required=True)
    asked = parser.parse_args()
    import torch

    from course_utils.models.loaders import quiet_libraries

    quiet_libraries()
    torch.manual_seed(SEED)
    device = _device(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    reports = []
    with ranks.meeting("nccl" if device.type == "cuda" else "gloo") as (rank, processes):
        for mode in asked.modes:
            report = train(mode, asked.steps, asked.batch, rank=rank, processes=processes)
            reports.append(asdict(report))
    print(json.dumps(reports))


# ---------------------------------------------------------------- what it should take


def expected_bytes(parameters: int, processes: int, sharded: bool) -> float:
    """Bytes on each process for full fine-tuning in fp32 with AdamW: 4 + 4 + 8 for each parameter (in all).

    Sharded (FSDP, ZeRO stage 3): each holds one part of everything. Rajbhandari et al. 2019, arXiv 1910.02054.
    """
    return 16 * parameters / (processes if sharded else 1)


if __name__ == "__main__":
    main()
