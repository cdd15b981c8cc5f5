"""Speculative decoding: a cheap drafter guesses, the large model reads all guesses in one pass (arXiv 2211.17192).

Token ids are plain lists; `chances` are tensors over the vocabulary. One sequence at a time, as in a conversation.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

CONTEXT = 4  # tokens that the n-gram table looks back at most


# ---------------------------------------------------------------- the model, with its memory


class Reader:
    """A transformers model with the keys and values of all that it has read so far. Counts its passes."""

    def __init__(self, model: nn.Module) -> None:
        from transformers import DynamicCache

        self.model, self.cache = model, DynamicCache(config=model.config)
        self.passes = 0

    @property
    def length(self) -> int:
        """How many tokens it remembers."""
        return self.cache.get_seq_length()

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read on by `tokens`; the logits after each of them, (tokens, vocabulary). ValueError without tokens."""
        if not tokens:
            raise ValueError("there is nothing to read: give at least one token")
        ids = torch.tensor([list(tokens)], device=self.model.device)  # (1, tokens)
        with torch.inference_mode():
            result = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True)
        self.passes += 1
        return result.logits[0].float()

    def keep(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length < self.length:
            self.cache.crop(length - self.length)  # below zero: so many from the end


def chances(logits: Tensor, temperature: float) -> Tensor:
    """Logits (..., vocabulary) as chances. At temperature 0 the likeliest token has all: greedy decoding."""
    if temperature < 0:
        raise ValueError(f"a temperature is 0 (greedy) or more, not {temperature}")
    if temperature == 0:
        likeliest = logits.argmax(-1)
        return nn.functional.one_hot(likeliest, logits.shape[-1]).float()
    return (logits / temperature).softmax(-1)


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """One token, with chances in proportion to `weights` (vocabulary)."""
    return int(torch.multinomial(weights, 1, generator=generator))


# ---------------------------------------------------------------- the rule


def accept(token: int, target: Tensor, draft: Tensor, luck: float) -> bool:
    """Whether a drafted token stays: with the chance min(1, p / q) (arXiv 2211.17192, algorithm 1).

    p and q are the token's chances in `target` and `draft` (vocabulary); `luck` is a random number
    in 0..1.
    """
    return luck * float(draft[token]) < float(target[token])


def leftover(target: Tensor, draft: Tensor) -> Tensor:
    """What the target wants more often than the drafter offers it: max(0, p - q), scaled to add up
    to 1.

    The token after a refusal is drawn from it. Where nothing is left (p equals q), it is the target
    itself.
    """
    missing = (target - draft).clamp(min=0)  # (vocabulary,)
    total = missing.sum()
    return missing / total if total > 0 else target


def decide(drafted: Sequence[int], drafts: Tensor, targets: Tensor, generator: torch.Generator) -> list[int]:
    """The drafted tokens up to the first that is refused, and one token more.

    drafts: (drafted, vocabulary), targets: (drafted + 1, vocabulary). ValueError if the numbers do not agree.
    """
    if len(drafts) != len(drafted) or len(targets) != len(drafted) + 1:
        needed = "each drafted token needs its draft's chances, and one row more of the target's"
        raise ValueError(f"{len(drafted)} tokens, {len(drafts)} drafts, {len(targets)} targets: {needed}")
    kept = []
    for place, token in enumerate(drafted):
        luck = float(torch.rand((), generator=generator))
        if not accept(token, targets[place], drafts[place], luck):
            rest = leftover(targets[place], drafts[place])
            return [*kept, draw(rest, generator)]
        kept.append(token)
    return [*kept, draw(targets[-1], generator)]


# ---------------------------------------------------------------- drafters


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def propose(self, tokens: Sequence[int], count: int, generator: torch.Generator) -> tuple[list[int], Tensor]:
        """At most `count` tokens, and the chances with which each was drawn, (tokens, vocabulary)."""


class Guesser:
    """A drafter that is always certain; its kinds say what they are certain of."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens."""
        raise NotImplementedError

    def propose(self, tokens: Sequence[int], count: int, generator: torch.Generator) -> tuple[list[int], Tensor]:
        guessed = self.guess(tokens, count)
        ids = torch.tensor(guessed, dtype=torch.long)
        return guessed, nn.functional.one_hot(ids, self.vocabulary).float()


class PromptLookup(Guesser):
    """Looks for the last `size` tokens earlier in the text, and guesses that the same comes again.

    After Saxena's prompt lookup decoding (2023), in transformers `prompt_lookup_num_tokens`. The last place
    counts; if the longest run of tokens is nowhere, a shorter one is looked for.
    """

    def __init__(self, vocabulary: int, size: int = 3) -> None:
        super().__init__(vocabulary)
        self.size = size

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        for size in range(self.size, 0, -1):
            ending = list(tokens[-size:])
            for start in range(len(tokens) - size - 1, -1, -1):
                if tokens[start : start + size] == ending:
                    begin = start + size
                    return list(tokens[begin : begin + count])
        return []


class Table(Guesser):
    """Knows which token came most often after each run of 1 to CONTEXT tokens in the texts that it was shown."""

    def __init__(self, vocabulary: int, texts: Iterable[Sequence[int]]) -> None:
        super().__init__(vocabulary)
        counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for tokens in texts:
            for place in range(1, len(tokens)):
                for size in range(1, min(CONTEXT, place) + 1):
                    before = tuple(tokens[place - size : place])
                    counts[before][tokens[place]] += 1
        self.likeliest = {before: counter.most_common(1)[0][0] for before, counter in counts.items()}

    def next(self, tokens: Sequence[int]) -> int | None:
        """The likeliest token after the longest known ending; None if no ending is known."""
        for size in range(CONTEXT, 0, -1):
            token = self.likeliest.get(tuple(tokens[-size:]))
            if token is not None:
                return token
        return None

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        ending = list(tokens[-CONTEXT:])
        guessed = []
        while len(guessed) < count and (token := self.next(ending)) is not None:
            guessed.append(token)
            ending = [*ending, token][-CONTEXT:]
        return guessed


class Together(Guesser):
    """Token by token: what follows the same three tokens earlier in this text, else what the table says."""

    def __init__(self, table: Table, size: int = 3) -> None:
        super().__init__(table.vocabulary)
        self.table, self.size = table, size

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        seen = {}
        for place in range(self.size, len(tokens)):
            seen[tuple(tokens[place - self.size : place])] = tokens[place]
        ending, guessed = list(tokens[-CONTEXT:]), []
        while len(guessed) < count:
            token = seen.get(tuple(ending[-self.size :]), self.table.next(ending))
            if token is None:
                break
            guessed.append(token)
            ending = [*ending, token][-CONTEXT:]
        return guessed


class SmallModel:
    """A small model of the same vocabulary drafts: one pass of its own for each token."""

    def __init__(self, model: nn.Module, temperature: float = 0) -> None:
        self.temperature, self.model = temperature, model
        self.known: list[int] = []
        self.reader = Reader(model)

    def propose(self, tokens: Sequence[int], count: int, generator: torch.Generator) -> tuple[list[int], Tensor]:
        self._go_back_to(tokens)
        unread = list(tokens[self.reader.length :])
        drafted, rows = [], []
        for _ in range(count):
            logits = self.reader.read(unread)[-1]  # (vocabulary,)
            self.known += unread
            row = chances(logits.cpu(), self.temperature)
            token = draw(row, generator)
            drafted.append(token)
            rows.append(row)
            unread = [token]
        size = self.model.config.vocab_size
        return drafted, torch.stack(rows) if rows else torch.zeros(0, size)

    def _go_back_to(self, tokens: Sequence[int]) -> None:
        """Forget what was drafted and refused; the last token stays to be read."""
        same = 0
        for known, token in zip(self.known, tokens[:-1], strict=False):
            if known != token:
                break
            same += 1
        if same == 0:
            self.reader = Reader(self.model)
        self.reader.keep(same)
        self.known = self.known[:same]


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class Writing:
    """What was written, how, and at what cost."""

    tokens: list[int]
    passes: int  # of the large model, the first over the prompt included
    drafted: int  # tokens
    accepted: int  # of these
    seconds: float  # of the processor, for all threads


def write(
    model: nn.Module,
    prompt: Sequence[int],
    drafter: Drafter | None = None,
    count: int = 4,
    *,
    limit: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    stop: int | None = None,
) -> Writing:
    """Write on after `prompt`: plainly without a drafter, else with `count` drafted tokens a pass.

    Ends before `limit` tokens are exceeded, or after the token `stop`. ValueError for an empty prompt.
    """
    if not prompt:
        raise ValueError("an empty prompt: there is nothing to write on")
    began = time.process_time()
    generator = torch.Generator().manual_seed(seed)
    reader, tokens = Reader(model), list(prompt)
    drafted_in_all = accepted = 0
    end = len(prompt) + limit
    while len(tokens) < end and (len(tokens) == len(prompt) or tokens[-1] != stop):
        room = min(count, end - len(tokens) - 1)
        drafted, drafts = _proposed(drafter, tokens, room, generator)
        unread = tokens[reader.length :]
        logits = reader.read(unread + drafted)[-len(drafted) - 1 :]  # (drafted + 1, vocabulary)
        targets = chances(logits.cpu(), temperature)
        new = decide(drafted, drafts, targets, generator) if drafted else [draw(targets[-1], generator)]
        drafted_in_all += len(drafted)
        accepted += len(new) - 1  # all but the model's own
        if stop in new:
            new = new[: new.index(stop) + 1]
        tokens += new
        reader.keep(len(tokens) - 1)  # what was refused is forgotten; the last token is still to be read
    seconds = time.process_time() - began
    return Writing(tokens[len(prompt) :], reader.passes, drafted_in_all, accepted, seconds)


def _proposed(
    drafter: Drafter | None, tokens: Sequence[int], count: int, generator: torch.Generator
) -> tuple[list[int], Tensor | None]:
    if drafter is None or count == 0:
        return [], None
    return drafter.propose(tokens, count, generator)


def expected_tokens(rate: float, count: int) -> float:
    """Tokens a pass if each of `count` drafted tokens is accepted with the chance `rate`, whatever came before.

    (1 - a^(k+1)) / (1 - a): arXiv 2211.17192, equation 1.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"an acceptance rate lies in 0..1, not at {rate}")
    return sum(rate**power for power in range(count + 1))


# ---------------------------------------------------------------- a draft model, and the cost of a pass


def train_drafter(vocabulary: int, texts: Sequence[Sequence[int]], steps: int, seed: int = 0) -> nn.Module:
    """A Llama of one layer, 64 wide, trained for `steps` steps of 8 texts to write like them: a draft model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from course_utils.prisma import lm
    from course_utils.training import Learner

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model, rng = LlamaForCausalLM(config), random.Random(seed)
    learner = Learner(model, 3e-3, steps)
    for _ in range(learner.steps):
        picked = rng.sample(list(texts), 8)
        rows = [(list(ids[-128:]), list(ids[-128:])) for ids in picked]
        learner.step(model(**lm.collate(rows, pad=0)).loss)
    return model.eval()


def pass_cost(model: nn.Module, prompt: Sequence[int], tokens: int, rounds: int = 9) -> list[float]:
    """The processor's milliseconds for reading so many tokens after a prompt, once each round."""
    reader = Reader(model)
    reader.read(prompt)
    length, more = reader.length, list(prompt[:1]) * tokens
    costs = []
    for _ in range(rounds + 1):
        began = time.process_time()
        reader.read(more)
        costs.append(1000 * (time.process_time() - began))
        reader.keep(length)
    return costs[1:]  # the first warms up
