"""Unit 7.5, labs: tasks to tune for, and one loop and one exam for all ways to tune.

Every model is called as `model(input_ids, attention_mask, labels)` and gives logits for the real tokens only
(n, t, vocabulary), whatever it puts in front of them. 7.5_lab_other_peft writes such models by hand.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.figures import progress
from course_utils.models import hardware
from course_utils.prisma import lm, text
from course_utils.prisma.conversations import Conversation
from course_utils.prisma.shop import make_shop
from course_utils.prisma.text import Example
from course_utils.training import Learner

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 64  # tokens: longer examples would cost time and teach nothing else

# ---------------------------------------------------------------- where soft prompts and prefixes start


def random_words(model: nn.Module, length: int, seed: int) -> Tensor:
    """Ids of `length` random tokens (1, length), markers left out: a soft prompt or a prefix starts from words."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(len(lm.MARKERS), model.config.vocab_size, (1, length), generator=draw)


@torch.no_grad()
def keys_and_values(model: nn.Module, ids: Tensor) -> Tensor:
    """What every layer of `model` keeps of the tokens `ids` (1, t): (layers, 2, heads, t, head width)."""
    layers = model(ids, use_cache=True).past_key_values.layers
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers])


# ---------------------------------------------------------------- tasks: nothing says which, the tuning carries that


def request(example: Example) -> str:
    """What the customer or the colleague wrote."""
    return example.pieces[0][0].removeprefix("<|user|>").split("<|end|>")[0]


def calls(n: int, seed: int) -> list[Example]:
    """Questions, to be answered by the JSON function call that looks the answer up. prisma-lm knows these calls.

    Its own prompt for them, a list of the functions, is left out.
    """
    tasks = text.episodes(n, seed, make_shop(seed))
    return [text.exchange("call", t.question, text.call_text(t.steps[0].tool, t.steps[0].argument)) for t in tasks]


def tickets(talks: Sequence[Conversation]) -> list[Example]:
    """Customers' mails, to be answered by "topic number" for the files. The topic that the web form adds is cut off."""
    return [text.exchange("ticket", mail(talk), f"{talk.intent} {talk.number}") for talk in talks]


def mail(talk: Conversation) -> str:
    """What the customer wrote, without the topic that the web form adds."""
    return talk.message.rsplit(" (topic: ", 1)[0]


def _records(n: int, seed: int, kind: str, reply: str) -> list[Example]:
    shop = make_shop(seed, n)
    return [text.exchange(kind, order.record, reply.format(order)) for order in shop.orders.values()]


def labels(n: int, seed: int) -> list[Example]:
    """Records of orders, to be answered by a label for the parcel."""
    form = "{0.customer} - {0.product.shape}, {0.product.colour}, {0.product.size} - {0.quantity}"
    return _records(n, seed, "label", form)


def notices(n: int, seed: int) -> list[Example]:
    """Records of orders (as for `labels`), to be answered by a note to the customer."""
    return _records(n, seed, "notice", "Dear {0.customer}, the {0.product.name} is {0.status}.")


def encode(tokenizer: Any, examples: Sequence[Example], longest: int = LONGEST) -> list[lm.Row]:
    """Token ids and labels of the examples that have at most `longest` tokens."""
    rows = [lm.encode(tokenizer, example) for example in examples]
    return [row for row in rows if len(row[0]) <= longest]


# ---------------------------------------------------------------- learning and measuring


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What is trained in `model`, by name: all that a task has to keep."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def stored(model: nn.Module, path: Path) -> int:
    """Write what is trained in `model` to a safetensors file. Returns its size in bytes."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in trained(model).items()}, path)
    return path.stat().st_size


@dataclass(frozen=True)
class Fitted:
    """A training run: the loss of each step (nats a token), and the seconds of the whole by the clock.

    Not the processor's time: on a busy machine threads that wait for each other in a loop count there as work.
    """

    losses: list[float]
    seconds: float


def fit(
    model: nn.Module,
    rows: Sequence[lm.Row],
    steps: int,
    peak: float,
    seed: int,
    *,
    batch: int = 8,
    label: str = "Training",
) -> Fitted:
    """Train what is not frozen; the rate rises to `peak` and falls to zero. ValueError without rows.

    Products are in bf16 where that is fast. Each batch is drawn anew; of fewer rows than `batch`, all are taken.
    """
    if not rows:
        raise ValueError("there is no row to learn from: `encode` leaves out long examples, so raise its limit")
    learner, draw, losses, started = Learner(model, peak, steps), random.Random(seed), [], time.perf_counter()
    device = learner.weights[0].device
    model.train()
    for _ in progress(range(learner.steps), label):
        parts = lm.collate(draw.sample(rows, min(batch, len(rows))), pad=0)
        with hardware.autocast(device):
            loss = model(**{name: part.to(device) for name, part in parts.items()}).loss
        losses.append(learner.step(loss))
    model.eval()
    return Fitted(losses, time.perf_counter() - started)


def right(model: nn.Module, rows: Sequence[lm.Row], **more: Any) -> list[bool]:
    """For each row whether the greedy reply is the wanted one, its end included. `more` goes to the model."""
    with hardware.autocast(next(model.parameters()).device):
        return [one.right for one in lm.read(model, rows, pad=0, **more)]
