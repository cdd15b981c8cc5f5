"""Unit 7.5, labs: other ways to tune (soft prompts, prefixes, bottlenecks), tasks to tune for, one loop for all.

Every model is called as `model(input_ids, attention_mask, labels)` and gives logits for the real tokens only
(n, t, vocabulary), whatever it puts in front of them. A row is (ids, labels), as `prisma.lm.encode` makes it.
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
from course_utils.prisma import lm, text
from course_utils.prisma.conversations import Conversation
from course_utils.prisma.shop import make_shop
from course_utils.prisma.text import Example

if TYPE_CHECKING:
    from pathlib import Path

Row = tuple[list[int], list[int]]
IGNORED = -100  # the label of a token that is read, not learned
LONGEST = 64  # tokens: longer examples would cost time and teach nothing else

# ---------------------------------------------------------------- the methods by hand


class SoftPrompt(nn.Module):
    """A frozen model behind trained vectors that stand where words would (prompt tuning, arXiv 2104.08691).

    `start` (length, width) are the vectors to begin with.
    """

    def __init__(self, model: nn.Module, start: Tensor):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.vectors = nn.Parameter(start.detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        n, length = len(input_ids), len(self.vectors)
        words = self.model.get_input_embeddings()(input_ids)
        seen = torch.cat([self.vectors.expand(n, -1, -1), words], 1)
        mask = torch.cat([attention_mask.new_ones(n, length), attention_mask], 1)
        if labels is not None:
            labels = torch.cat([labels.new_full((n, length), -100), labels], 1)
        out = self.model(inputs_embeds=seen, attention_mask=mask, labels=labels)
        out.logits = out.logits[:, length:]
        return out


class Prefix(nn.Module):
    """A frozen model whose layers all attend to trained keys and values, too (prefix tuning, arXiv 2101.00190).

    `start` is (layers, 2, heads, length, head width): keys and values to begin with.
    """

    def __init__(self, model: nn.Module, start: Tensor):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.vectors = nn.Parameter(start.detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        from transformers import DynamicCache

        n, length = len(input_ids), self.vectors.shape[3]
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.vectors):
            cache.update(keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1), number)
        mask = torch.cat([attention_mask.new_ones(n, length), attention_mask], 1)
        return self.model(input_ids, attention_mask=mask, labels=labels, past_key_values=cache)


class Bottleneck(nn.Module):
    """A frozen layer, and behind it a small network with a skip: y + U gelu(D y) (adapters, arXiv 1902.00751)."""

    def __init__(self, base: nn.Linear, size: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.out_features, size), nn.Linear(size, base.out_features)
        nn.init.zeros_(self.up.weight)  # as with LoRA: training starts from the model as it is
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y + self.up(nn.functional.gelu(self.down(y)))


def add_bottlenecks(model: nn.Module, size: int) -> nn.Module:
    """Freeze `model`; a Bottleneck follows the attention and another the feed-forward network of each layer."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.o_proj = Bottleneck(layer.self_attn.o_proj, size)
        layer.mlp.down_proj = Bottleneck(layer.mlp.down_proj, size)
    return model


def random_words(model: nn.Module, length: int, seed: int) -> Tensor:
    """Ids of `length` random tokens (1, length), markers left out: a soft prompt or a prefix starts from words."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(len(lm.MARKERS), model.config.vocab_size, (1, length), generator=draw)


@torch.no_grad()
def keys_and_values(model: nn.Module, ids: Tensor) -> Tensor:
    """What every layer of `model` keeps of the tokens `ids` (1, t): (layers, 2, heads, t, head width)."""
    layers = model(ids, use_cache=True).past_key_values.layers
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers])


# ---------------------------------------------------------------- tasks


def _task(kind: str, request: str, reply: str) -> Example:
    """One request and the reply to learn. Nothing says which task it is: the tuning has to carry that."""
    return Example(kind, ((text.turn("user", request) + "<|assistant|>", False), (reply + "<|end|>", True)))


def request(example: Example) -> str:
    """What the customer or the colleague wrote."""
    return example.pieces[0][0].removeprefix("<|user|>").split("<|end|>")[0]


def calls(n: int, seed: int) -> list[Example]:
    """Questions, to be answered by the JSON function call that looks the answer up. prisma-lm knows these calls.

    Its own prompt for them, a list of the functions, is left out.
    """
    tasks = text.episodes(n, seed, make_shop(seed))
    return [_task("call", t.question, text.call_text(t.steps[0].tool, t.steps[0].argument)) for t in tasks]


def tickets(talks: Sequence[Conversation]) -> list[Example]:
    """Customers' mails, to be answered by "topic number" for the files. The topic that the web form adds is cut off."""
    return [_task("ticket", mail(talk), f"{talk.intent} {talk.number}") for talk in talks]


def mail(talk: Conversation) -> str:
    """What the customer wrote, without the topic that the web form adds."""
    return talk.message.rsplit(" (topic: ", 1)[0]


def _records(n: int, seed: int, kind: str, reply: str) -> list[Example]:
    shop = make_shop(seed, n)
    record = "order {0.number}: {0.quantity} {0.product.name} for {0.customer}, {0.status}"
    return [_task(kind, record.format(order), reply.format(order)) for order in shop.orders.values()]


def labels(n: int, seed: int) -> list[Example]:
    """Records of orders, to be answered by a label for the parcel."""
    form = "{0.customer} - {0.product.shape}, {0.product.colour}, {0.product.size} - {0.quantity}"
    return _records(n, seed, "label", form)


def notices(n: int, seed: int) -> list[Example]:
    """Records of orders (as for `labels`), to be answered by a note to the customer."""
    return _records(n, seed, "notice", "Dear {0.customer}, the {0.product.name} is {0.status}.")


def encode(tokenizer: Any, examples: Sequence[Example], longest: int = LONGEST) -> list[Row]:
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
    """A training run: the loss of each step (nats a token), and the CPU seconds of the whole (all cores together)."""

    losses: list[float]
    seconds: float


def fit(
    model: nn.Module, rows: Sequence[Row], steps: int, peak: float, seed: int, batch: int = 8, label: str = "Training"
) -> Fitted:
    """Train what is not frozen, by AdamW in bf16 autocast; the rate rises to `peak` and falls to zero."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=peak, weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.1)
    draw, losses, started = random.Random(seed), [], time.process_time()
    model.train()
    for _ in progress(range(steps), label):
        parts = lm.collate(draw.sample(rows, batch), pad=0)
        with torch.autocast(weights[0].device.type, torch.bfloat16):
            loss = model(**{name: part.to(weights[0].device) for name, part in parts.items()}).loss
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        plan.step()
        losses.append(loss.item())
    model.eval()
    return Fitted(losses, time.process_time() - started)


@torch.inference_mode()
def right(model: nn.Module, rows: Sequence[Row], batch: int = 64, **more: Any) -> list[bool]:
    """For each row whether the greedy reply is the wanted one, its end included.

    Nothing has to be generated: the greedy reply is the wanted one exactly if each of its tokens is the likeliest
    after the wanted ones before it. `more` goes to the model.
    """
    found: dict[int, bool] = {}
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for chunk in (order[i : i + batch] for i in range(0, len(order), batch)):
        parts = {k: v.to(device) for k, v in lm.collate([rows[i] for i in chunk], pad=0).items()}
        wanted = parts.pop("labels")[:, 1:]
        with torch.autocast(device.type, torch.bfloat16):
            likeliest = model(**parts, **more).logits[:, :-1].argmax(-1)
        found.update(zip(chunk, ((likeliest == wanted) | (wanted == IGNORED)).all(1).tolist(), strict=True))
    return [found[i] for i in range(len(rows))]
