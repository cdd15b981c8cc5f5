"""ZeRO by hand: the training of one model on several processes, each of which holds less and less of it.

    sharding.launch(["all copies", "zero-1", "zero-2", "zero-3"], processes=2)

starts this file as a program, once for each process. After Rajbhandari et al. 2019, arXiv 1910.02054.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from course_utils import ranks
from course_utils.research import scaling
from course_utils.settings import SEED

BY_HAND = ("all copies", "zero-1", "zero-2", "zero-3")
LIBRARY = ("ZeroRedundancyOptimizer", "fully_shard")
SEEN = 16  # letters from which the next is guessed
WIDTH = 256
BLOCKS = 4
BATCH = 32
RATE = 1e-3


@dataclass(frozen=True)
class Report:
    """One process of one run: the loss of each step over the whole batch, bytes held, numbers sent in a step."""

    mode: str
    rank: int
    processes: int
    parameters: int  # of the whole model
    losses: list[float]
    weights: int
    gradients: int
    optimiser: int
    sent: int  # numbers given to our collectives in one step; 0 where a library does the sending

    @property
    def bytes(self) -> int:
        """All that is held when the backward pass has ended."""
        return self.weights + self.gradients + self.optimiser


# ---------------------------------------------------------------- two exchanges


class Wire:
    """What travels between the processes, and how much. A whole tensor is cut into equal parts, one for each rank."""

    def __init__(self, rank: int, processes: int) -> None:
        self.rank, self.processes = rank, processes
        self.sent = 0

    def own(self, whole: Tensor) -> Tensor:
        """This process's part (n / processes,) of a tensor of n numbers, without a copy.

        ValueError if it cannot be cut into equal parts.
        """
        if whole.numel() % self.processes:
            raise ValueError(f"{whole.numel()} numbers cannot be cut into {self.processes} equal parts")
        return whole.reshape(self.processes, -1)[self.rank]

    def add_up(self, whole: Tensor) -> Tensor:
        """Reduce-scatter: everybody's tensors are averaged, and each process gets its own part of
        the mean.
        """
        part = torch.empty_like(self.own(whole))
        dist.reduce_scatter_tensor(part, whole.reshape(-1))
        self.sent += whole.numel()
        return part / self.processes

    def join(self, part: Tensor, shape: torch.Size) -> Tensor:
        """All-gather: each process gives its part, and all get the whole tensor."""
        whole = torch.empty(part.numel() * self.processes)
        dist.all_gather_into_tensor(whole, part.contiguous())
        self.sent += whole.numel()
        return whole.view(shape)


class Gathered(torch.autograd.Function):
    """A weight that is whole only while it is used: gathered on the way, its gradient scattered on
    the way back.

    The one is the other's mirror image: what all-gather is to the values, reduce-scatter is to
    their gradients.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, shape: torch.Size, wire: Wire) -> Tensor:
        ctx.wire = wire
        return wire.join(part, shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.wire.add_up(gradient), None, None


# ---------------------------------------------------------------- the model


class Guess(nn.Module):
    """The first block: SEEN letters (batch, SEEN) as one row of WIDTH numbers."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(vocabulary, WIDTH // SEEN)

    def forward(self, ids: Tensor) -> Tensor:
        return self.letters(ids).flatten(1)


class Mix(nn.Module):
    """A residual block, (batch, WIDTH) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.gelu(self.up(x))  # (batch, 4 WIDTH)
        return x + self.down(wide)


def build(vocabulary: int) -> nn.Sequential:
    """Blocks that guess the next letter, the same on every process: its letters have to be an even number."""
    torch.manual_seed(SEED)
    middle = [Mix() for _ in range(BLOCKS)]
    return nn.Sequential(Guess(vocabulary), *middle, nn.Linear(WIDTH, vocabulary, bias=False))


def batches(steps: int) -> tuple[int, Iterator[tuple[Tensor, Tensor]]]:
    """The number of letters, and `steps` batches: letters (BATCH, SEEN) and what comes after them (BATCH,)."""
    data = scaling.letters(300)
    vocabulary = len(data.alphabet) + len(data.alphabet) % 2
    generator = torch.Generator().manual_seed(SEED)

    def drawn() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            starts = torch.randint(len(data.train) - SEEN, (BATCH, 1), generator=generator)
            rows = data.train[starts + torch.arange(SEEN + 1)]
            yield rows[:, :-1], rows[:, -1]

    return vocabulary, drawn()


# ---------------------------------------------------------------- the stages


class Alone:
    """One process, nothing to exchange."""

    def __init__(self, model: nn.Sequential, wire: Wire) -> None:
        self.model, self.wire = model, wire
        self.weights = list(model.parameters())
        self.optimiser = torch.optim.AdamW(self.weights, lr=RATE)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)

    def finish(self) -> None:
        """After the backward pass: one step."""
        self.optimiser.step()
        self.optimiser.zero_grad()


class Copies(Alone):
    """Stage 0: everybody holds everything. Averaged gradients keep the copies equal (DDP)."""

    def finish(self) -> None:
        """After the backward pass: exchange, and one step."""
        for weight in self.weights:
            mean = self.wire.add_up(weight.grad)
            weight.grad = self.wire.join(mean, weight.shape)
        super().finish()


class StateCut(Alone):
    """Stage 1: the optimiser knows this process's part of each weight only, and keeps two numbers for that alone."""

    def __init__(self, model: nn.Sequential, wire: Wire) -> None:
        self.model, self.wire = model, wire
        self.weights = list(model.parameters())
        self.parts = [nn.Parameter(wire.own(weight.data)) for weight in self.weights]  # views, no copies
        self.optimiser = torch.optim.AdamW(self.parts, lr=RATE)

    def scatter(self, weight: nn.Parameter, part: nn.Parameter) -> None:
        """Trade a whole gradient for this process's part of the mean."""
        part.grad = self.wire.add_up(weight.grad)
        weight.grad = None

    def finish(self) -> None:
        for weight, part in zip(self.weights, self.parts, strict=True):
            if weight.grad is not None:
                self.scatter(weight, part)
        self.optimiser.step()
        self.optimiser.zero_grad()
        for weight, part in zip(self.weights, self.parts, strict=True):
            weight.data.copy_(self.wire.join(part.data, weight.shape))


class GradientCut(StateCut):
    """Stage 2: a gradient is traded for its part as soon as it is there, while the backward pass goes on."""

    def __init__(self, model: nn.Sequential, wire: Wire) -> None:
        super().__init__(model, wire)
        for weight, part in zip(self.weights, self.parts, strict=True):
            weight.register_post_accumulate_grad_hook(lambda weight, part=part: self.scatter(weight, part))


class WeightCut(Alone):
    """Stage 3: of each weight only a part is held. A block's weights are gathered for its turn, and let go again.

    Checkpointing does the letting go: it keeps nothing of a block and repeats it on the way back, so the weights
    are gathered twice.
    """

    def __init__(self, model: nn.Sequential, wire: Wire) -> None:
        self.model, self.wire, self.shapes = model, wire, {}
        self.parts: dict[str, nn.Parameter] = {}
        for name, weight in model.named_parameters():
            self.parts[name] = nn.Parameter(wire.own(weight.data).clone())
            self.shapes[name] = weight.shape
            weight.data = torch.empty(0)  # the whole weight is gone
        self.weights = list(self.parts.values())
        self.optimiser = torch.optim.AdamW(self.weights, lr=RATE)

    def forward(self, ids: Tensor) -> Tensor:
        x = ids
        for place in range(len(self.model)):
            x = checkpoint(self._block, place, x, use_reentrant=False)
        return x

    def _block(self, place: int, x: Tensor) -> Tensor:
        """Block number `place` with its weights gathered."""
        block, whole = self.model[place], {}
        for name, _ in block.named_parameters():
            known = f"{place}.{name}"
            whole[name] = Gathered.apply(self.parts[known], self.shapes[known], self.wire)
        return functional_call(block, whole, (x,))


class Library(Alone):
    """PyTorch's own stage 1 (ZeroRedundancyOptimizer beside DDP) or stage 3 (fully_shard, "FSDP2")."""

    def __init__(self, mode: str, model: nn.Sequential, wire: Wire) -> None:
        self.wire = wire
        if mode == "fully_shard":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (wire.processes,))
            for block in model[1:-1]:
                fully_shard(block, mesh=mesh)
            self.model = fully_shard(model, mesh=mesh)
            self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=RATE)
        else:
            from torch.distributed.optim import ZeroRedundancyOptimizer
            from torch.nn.parallel import DistributedDataParallel

            self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
            self.optimiser = ZeroRedundancyOptimizer(self.model.parameters(), torch.optim.AdamW, lr=RATE)
        self.weights = list(self.model.parameters())


STAGES: dict[str, Callable[[nn.Sequential, Wire], Alone]] = {
    "one process": Alone,
    "all copies": Copies,
    "zero-1": StateCut,
    "zero-2": GradientCut,
    "zero-3": WeightCut,
}


# ---------------------------------------------------------------- counting


def _bytes(tensors: Sequence[Tensor]) -> int:
    """The bytes of the pieces that this process holds."""
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum(tensor.nbytes for tensor in local)


def held(trainer: Alone) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser state on this process, as they are now."""
    weights = list(trainer.weights)
    parts = trainer.parts if isinstance(trainer, StateCut) else []
    every = [*weights, *parts]
    gradients = [weight.grad for weight in every if weight.grad is not None]
    optimiser = getattr(trainer.optimiser, "optim", trainer.optimiser)  # inside ZeroRedundancyOptimizer
    states = []
    for state in optimiser.state.values():
        states += [value for value in state.values() if torch.is_tensor(value)]
    # Parts that are views of a weight take no room of their own.
    return {"weights": _bytes(weights), "gradients": _bytes(gradients), "optimiser": _bytes(states)}


def expected_bytes(stage: int, parameters: int, processes: int) -> float:
    """Bytes on each process in fp32 with AdamW: 4 + 4 + 8 a parameter, of which each stage cuts one more.

    Stage 1 cuts the optimiser's state, 2 the gradients too, 3 the weights too (arXiv 1910.02054, figure 1).
    """
    if stage not in range(4) or processes < 1:
        raise ValueError(f"ZeRO has the stages 0 to 3 and at least one process, not {stage} and {processes}")
    state = 8 / (processes if stage >= 1 else 1)
    gradient = 4 / (processes if stage >= 2 else 1)
    weight = 4 / (processes if stage >= 3 else 1)
    return parameters * (state + gradient + weight)


# ---------------------------------------------------------------- a run


def train(mode: str, steps: int, rank: int = 0, processes: int = 1) -> Report:
    """Train for some steps; each process takes its share of the rows of every batch. What this
    process saw.

    ValueError for an unknown mode, or rows that cannot be shared out equally.
    """
    if mode not in (*STAGES, *LIBRARY):
        raise ValueError(f"there is no mode {mode!r}: take one of {', '.join((*STAGES, *LIBRARY))}")
    if BATCH % processes:
        raise ValueError(f"{BATCH} rows cannot be shared out to {processes} processes equally")
    vocabulary, drawn = batches(steps)
    model, wire = build(vocabulary), Wire(rank, processes)
    parameters = sum(weight.numel() for weight in model.parameters())
    trainer = Library(mode, model, wire) if mode in LIBRARY else STAGES[mode](model, wire)
    losses, memory = [], {}
    for ids, wanted in drawn:
        wire.sent = 0
        loss = F.cross_entropy(trainer.forward(ids[rank::processes]), wanted[rank::processes])
        loss.backward()
        memory = held(trainer)
        trainer.finish()
        losses.append(_mean(loss.detach(), processes))
    return Report(mode, rank, processes, parameters, losses, sent=wire.sent, **memory)


def _mean(loss: Tensor, processes: int) -> float:
    if processes > 1:
        dist.all_reduce(loss)
    return loss.item() / processes


def launch(modes: Sequence[str], processes: int = 2, steps: int = 8) -> list[Report]:
    """Run each mode on several processes; a report from each, mode by mode, rank by rank.

    ranks.RanksError if a process fails. None is left behind.
    """
    told = ranks.launch(__name__, [*modes, "--steps", str(steps)], processes)
    reports = []
    for of_a_mode in zip(*told, strict=True):  # what each rank says of it
        reports += [Report(**words) for words in of_a_mode]
    return reports


def main() -> None:
    """The program that `launch` starts: one process of each run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("modes", nargs="+")
    parser.add_argument("--steps", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    reports = []
    with ranks.meeting() as (rank, processes):
        for mode in asked.modes:
            reports.append(asdict(train(mode, asked.steps, rank, processes)))
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
