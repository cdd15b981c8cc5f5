"""prisma-reader: a LoRA adapter with which prisma-lm reads, cites its source, and says when it does not know.

The weights of prisma-lm stay as they are; the adapter is a PEFT folder of its own.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from course_utils import compat
from course_utils.measures import Measure, share
from course_utils.models import bundled, hardware
from course_utils.models.roles import Chat
from course_utils.prisma import lm, reading, text
from course_utils.prisma.shop import make_shop
from course_utils.settings import SEED
from course_utils.training import Deadline, checkpoint, run

NAME = "prisma-reader"
BASE = "prisma-lm"
RANK = 32
ALPHA = 64
PEAK = 3e-3
BATCH_TOKENS = 1536
POOL = 100


def batches(tokenizer: Any, seed: int) -> Iterator[dict]:
    """Endless batches of passages of like length, about BATCH_TOKENS tokens each."""
    rng = random.Random(seed)
    drawn = reading.examples(seed)
    while True:
        rows = [lm.encode(tokenizer, example) for example in itertools.islice(drawn, POOL)]
        rows.sort(key=lambda row: len(row[0]))
        full = list(_cut(rows))
        rng.shuffle(full)
        for part in full:
            yield lm.collate(part, tokenizer.pad_token_id)


def _cut(rows: list[lm.Row]) -> Iterator[list[lm.Row]]:
    """The rows in their order, in parts of up to BATCH_TOKENS tokens; what is left at the end is dropped."""
    part: list[lm.Row] = []
    for row in rows:
        if (len(part) + 1) * lm.padded(len(row[0])) > BATCH_TOKENS:
            yield part
            part = []
        part.append(row)


class Adam:
    """AdamW on the adapter's weights; `step` takes the learning rate."""

    def __init__(self, model: Any) -> None:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.inner = torch.optim.AdamW(weights, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, rate: float) -> None:
        """One update, after which the gradients are gone."""
        for group in self.inner.param_groups:
            group["lr"] = rate
        self.inner.step()
        self.inner.zero_grad()

    def state_dict(self) -> dict:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)


def learn(model: Any, optimiser: Adam, batch: dict, number: int, part: float) -> float:
    """Step `number`, `part` (0..1) of the way through the training. Returns the loss."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    with hardware.autocast(device):
        loss = model(**inputs).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step(PEAK * lm.rate(part, number))
    return loss.item()


def train(minutes: float = 45, device: str = "cpu", resume: bool = False) -> Path:
    """Train an adapter for `minutes`; returns its folder, build/train/prisma-reader/model.

    `resume` goes on where the last checkpoint of a killed run stood.
    """
    base, tokenizer = lm.load(bundled.verify(BASE))
    torch.manual_seed(SEED)
    model = compat.add_peft_lora(base, RANK, ALPHA).to(device).train()
    model.set_attn_implementation("eager")  # the fused kernel's backward pass is slower on short rows
    point, optimiser, state = checkpoint(NAME), Adam(model), {"step": 0, "spent": 0.0}
    if resume:
        state.update(point.load(model, optimiser))
    deadline = Deadline(minutes, state["spent"])
    rows = batches(tokenizer, SEED + state["step"])

    def step(batch: dict, number: int, part: float) -> float:
        return learn(model, optimiser, batch, number, part)

    run(NAME, rows, step, deadline, state, lambda s: point.save(model, optimiser, **s))
    return save(model, point.folder / "model")


def load(folder: Path | None = None) -> tuple[Any, Any]:
    """prisma-lm with the adapter in `folder` (the shipped one by default) merged into it, and its tokenizer."""
    place = bundled.verify(NAME) if folder is None else folder
    base, tokenizer = lm.load(bundled.verify(BASE))
    merged = compat.load_lora(base, place).merge_and_unload()
    return merged.eval(), tokenizer


def as_chat(folder: Path | None = None) -> Chat:
    """The reader in the role of a chat model; on prompts from `reading.prompt` it answers from what it is given."""
    model, tokenizer = load(folder)
    return Chat(model, tokenizer, NAME, "bundled")


def ask(chat: Chat, passages: Sequence[Sequence[str]], questions: Sequence[str]) -> list[reading.Read]:
    """The answer to each question from its sources. ValueError if their numbers differ or sources are missing."""
    pairs = zip(passages, questions, strict=True)
    prompts = [reading.prompt(sources, question) for sources, question in pairs]
    replies = chat.complete_many(prompts, max_new_tokens=24)
    return [reading.parse(reply) for reply in replies]


def exact(chat: Chat, tests: Sequence[reading.Passage], cite: bool = True) -> list[bool]:
    """For each passage with one question, whether the reply is right in every token."""
    prompts = [reading.prompt(test.sources, test.questions[0].text, cite) for test in tests]
    replies = chat.complete_many(prompts, max_new_tokens=24)
    return [reading.right(test.questions[0], reply, cite) for test, reply in zip(tests, replies, strict=True)]


def evaluate(folder: Path, seed: int, n: int = 200) -> dict[str, Measure]:
    """The measures of the model card, `n` cases each, about shops that training never drew."""
    chat = as_chat(folder)
    rng = random.Random(f"reader {seed}")
    shop = make_shop(seed)
    old = [text.reading(rng, shop) for _ in range(n)]
    replies = chat.complete_many([example.pieces[0][0] for example in old], max_new_tokens=24)
    wanted = [example.pieces[1][0].removesuffix("<|end|>") for example in old]
    same = [reply.strip() == answer for reply, answer in zip(replies, wanted, strict=True)]
    there = reading.tests(n, seed, absent=0)
    return {
        "reading, exact": share(same),
        "answers with sources, exact": share(exact(chat, there)),
        "says that it does not know": share(exact(chat, reading.tests(n, seed, absent=1))),
        "new wordings, exact": share(exact(chat, reading.tests(n, seed, "held out", absent=0))),
        "new wordings, does not know": share(exact(chat, reading.tests(n, seed, "held out", absent=1))),
    }


def save(model: Any, folder: Path) -> Path:
    """Write the adapter alone, in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder
