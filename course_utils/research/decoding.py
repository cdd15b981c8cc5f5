"""Decoding by hand: greedy, beam search, temperature and what cuts the tail; quality and diversity (Unit 7.3).

A *filter* takes logits (n, vocabulary) and gives logits back, minus infinity for tokens that must not come.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.prisma import lm, shop

Filter = Callable[[Tensor], Tensor]
NEVER = float("-inf")


# ---------------------------------------------------------------- filters


def temperature(logits: Tensor, t: float) -> Tensor:
    """Divide by `t`: below 1 the likely gets likelier, above 1 everything gets more alike.
    ValueError for t <= 0.
    """
    if t <= 0:
        raise ValueError(f"temperature {t}: it has to be above 0. For the likeliest: be greedy.")
    return logits / t


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` largest logits of each row (and those equal to the last of them). ValueError for
    k < 1.
    """
    if k < 1:
        raise ValueError(f"k = {k}: at least one token has to stay.")
    best = logits.topk(min(k, logits.shape[-1])).values  # (n, k)
    least = best[:, -1:]  # (n, 1)
    return logits.masked_fill(logits < least, NEVER)


def min_p(logits: Tensor, share: float) -> Tensor:
    """Keep tokens with at least `share` of the likeliest one's probability (arXiv 2407.01082).

    ValueError unless 0 <= share <= 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"min-p {share}: it is a share of the largest probability, from 0 to 1.")
    chances = logits.softmax(-1)  # (n, vocabulary)
    largest = chances.amax(-1, keepdim=True)  # (n, 1)
    return logits.masked_fill(chances < share * largest, NEVER)


def nucleus(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probabilities add up to `p` or more (arXiv 1904.09751).

    ValueError unless 0 < p <= 1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"p = {p}: it is a sum of probabilities, above 0 and at most 1.")
    chances = logits.softmax(-1)  # (n, vocabulary)
    ordered, places = chances.sort(descending=True, dim=-1)
    before = ordered.cumsum(-1) - ordered  # (n, vocabulary): what the likelier tokens have
    dropped = before >= p
    dropped[:, 0] = False  # the likeliest stays, whatever rounding says
    out = torch.zeros_like(dropped).scatter(-1, places, dropped)
    return logits.masked_fill(out, NEVER)


def repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make tokens that stand in `ids` (n, t) already less likely (CTRL, arXiv 1909.05858).

    Positive logits are divided by `penalty`, negative ones multiplied. ValueError for penalty <= 0.
    """
    if penalty <= 0:
        raise ValueError(f"penalty {penalty}: it has to be above 0, and 1 changes nothing.")
    said = logits.gather(-1, ids)  # (n, t)
    lowered = torch.where(said > 0, said / penalty, said * penalty)
    return logits.scatter(-1, ids, lowered)


# ---------------------------------------------------------------- sampling


@torch.inference_mode()
def sample(
    model: nn.Module,
    prompt: Sequence[int],
    n: int,
    steps: int,
    filters: Sequence[Filter] = (),
    seed: int = 0,
) -> list[list[int]]:
    """`n` continuations of one prompt (token ids), each up to `steps` tokens or the end mark, which is left out.

    At each step the filters change the logits one after the other, and one token is drawn. Without an end mark in
    the model's configuration every continuation has `steps` tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)] * n, device=device)  # (n, t)
    written, cache = [], None
    for _ in range(steps):
        result = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        logits = result.logits[:, -1].float().cpu()  # (n, vocabulary)
        for change in filters:
            logits = change(logits)
        chances = logits.softmax(-1)
        drawn = torch.multinomial(chances, 1, generator=generator)  # (n, 1)
        written.append(drawn)
        ids = drawn.to(device)
    rows = torch.cat(written, dim=1).tolist()
    return [until(row, model.config.eos_token_id) for row in rows]


def until(row: list[int], end: int | None) -> list[int]:
    """The tokens before the first end mark."""
    return row[: row.index(end)] if end in row else row


# ---------------------------------------------------------------- beam search


@dataclass(frozen=True)
class Hypothesis:
    """A text under way: its tokens after the prompt, and the sum of their log-probabilities (nats)."""

    tokens: tuple[int, ...] = ()
    log_prob: float = 0.0

    @property
    def score(self) -> float:
        """The mean log-probability of a token: without dividing, short texts would always win."""
        return self.log_prob / len(self.tokens)


def extended(
    model: nn.Module,
    prompt: Sequence[int],
    running: Sequence[Hypothesis],
    most: int,
) -> list[Hypothesis]:
    """The `most` likeliest continuations of all running hypotheses by one token, the likeliest
    first.
    """
    rows = [[*prompt, *one.tokens] for one in running]
    ids = torch.tensor(rows, device=next(model.parameters()).device)  # (beams, t)
    read = model(input_ids=ids, use_cache=False)
    logits = read.logits[:, -1].float().cpu()  # (beams, vocabulary)
    so_far = torch.tensor([[one.log_prob] for one in running])  # (beams, 1)
    sums = so_far + logits.log_softmax(-1)  # (beams, vocabulary)
    best = sums.flatten().topk(most)
    found = []
    for log_prob, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        beam, token = divmod(place, sums.shape[1])
        found.append(Hypothesis((*running[beam].tokens, token), log_prob))
    return found


@torch.inference_mode()
def beam_search(
    model: nn.Module,
    prompt: Sequence[int],
    beams: int,
    steps: int,
) -> list[Hypothesis]:
    """The `beams` best texts of up to `steps` tokens that beam search finds after a prompt, the
    best first.

    As `generate(num_beams=beams)` of transformers has it. The model's end mark counts as a token.
    ValueError for fewer than one beam or step.
    """
    if beams < 1 or steps < 1:
        raise ValueError(f"{beams} beams, {steps} steps: at least one of each is needed.")
    end = model.config.eos_token_id
    running, finished = [Hypothesis()], []
    for step in range(1, steps + 1):
        # Twice as many as needed: even if half of them end here, enough go on.
        candidates = extended(model, prompt, running, 2 * beams)
        ended = [one for one in candidates[:beams] if one.tokens[-1] == end or step == steps]
        finished = sorted([*finished, *ended], key=lambda one: -one.score)[:beams]
        running = [one for one in candidates if one.tokens[-1] != end][:beams]
        # Could the best that still runs beat the worst that is finished?
        if len(finished) == beams and running[0].score <= finished[-1].score:
            break
    return finished


# ---------------------------------------------------------------- quality and diversity


def runs(tokens: Sequence, n: int) -> list[tuple]:
    """All runs of `n` tokens, the n-grams, in order."""
    starts = range(len(tokens) - n + 1)
    return [tuple(tokens[start : start + n]) for start in starts]


def distinct(texts: Sequence[Sequence], n: int) -> float:
    """distinct-n (arXiv 1510.03055): the share of different n-grams among all n-grams of the texts. 0 without any."""
    grams: Counter[tuple] = Counter()
    for text in texts:
        grams.update(runs(text, n))
    return len(grams) / grams.total() if grams else 0.0


def self_bleu(texts: Sequence[str]) -> list[float]:
    """For each text its BLEU (0 to 100) with all others as references (arXiv 1802.01886): high means alike.

    ValueError for fewer than two texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise ValueError("Self-BLEU compares a text with others: at least two are needed.")
    bleu = BLEU(effective_order=True)
    scores = []
    for place, text in enumerate(texts):
        others = [*texts[:place], *texts[place + 1 :]]
        scores.append(bleu.sentence_score(text, others).score)
    return scores


def loops(tokens: Sequence, length: int = 8) -> bool:
    """Whether a run of `length` tokens comes twice: the mark of a text that goes in circles."""
    found = runs(tokens, length)
    return len(set(found)) < len(found)


# ---------------------------------------------------------------- sentences that the shop's catalogue can hold

_SIZE = f"({'|'.join(shop.SIZES)})"
_COLOUR = f"({'|'.join(shop.COLOURS)})"
_SHAPE = f"({'|'.join(shop.SHAPES)})"
_PRODUCT = f"{_SIZE} {_COLOUR} {_SHAPE}"
_NAME = f"({'|'.join(shop.NAMES)})"
_STATUS = f"({'|'.join(shop.STATUSES)})"
FORMS = (
    rf"The {_PRODUCT} costs \d+ euros, and we have \d+ in stock\.",
    rf"You can buy the {_PRODUCT} for \d+ euros\.",
    r"There are \d+ left\.",
    rf"Our {_PRODUCT} is \d+ euros\.",
    rf"{_NAME} bought \d {_PRODUCT} with order \d{{4}}\.",
    rf"The parcel was {_STATUS}\.",
    rf"A {_SHAPE} is a good present for a birthday\.",
    rf"{_NAME} likes the colour {_COLOUR}\.",
    rf"The {_SIZE} {_SHAPE} is also made in {_COLOUR}, {_COLOUR} and {_COLOUR}\.",
    rf"I was waiting for my {_PRODUCT}, and today it arrived\.",
    r"The box was (open|broken|fine)\.",
    r"Toys that are broken or lost will be sent again\.",
    r"Please write to our team with the number \d{4}\.",
)
_SENTENCE = re.compile("|".join(f"(?:{form})" for form in FORMS))


def is_sentence(text: str) -> bool:
    """Whether a text is exactly one sentence that the shop's catalogue could hold, one of FORMS."""
    return bool(_SENTENCE.fullmatch(text))


def first_sentence(text: str) -> str:
    """A text up to its first full stop, without spaces around it; all of it if there is none."""
    sentence, stop, _ = text.partition(".")
    return (sentence + stop).strip()


# ---------------------------------------------------------------- the library's way, for many prompts


@torch.inference_mode()
def generate(chat, prompts: Sequence[str], steps: int, seed: int = 0, **settings) -> list[list[int]]:
    """What transformers writes after each prompt: up to `steps` token ids, without the end mark.

    `settings` go to GenerationConfig: num_beams, do_sample, temperature, top_k, top_p, min_p, repetition_penalty.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, written = _generated(chat, prompts, steps, settings)
    return written


@torch.inference_mode()
def library_beams(chat, prompt: str, beams: int, steps: int) -> tuple[list[list[int]], list[float]]:
    """The `beams` best texts of transformers' beam search (token ids without the end mark), and their scores."""
    settings = {"num_beams": beams, "num_return_sequences": beams, "do_sample": False, "output_scores": True}
    result, texts = _generated(chat, [prompt], steps, settings)
    return texts, result.sequences_scores.tolist()


def _generated(chat, prompts: Sequence[str], steps: int, settings: dict) -> tuple:
    """What `generate` of transformers returns, and its texts: token ids after the prompts, without the end mark."""
    from transformers import GenerationConfig

    end = chat.tokenizer.eos_token_id
    config = GenerationConfig(
        max_new_tokens=steps,
        pad_token_id=chat.tokenizer.pad_token_id,
        eos_token_id=end,
        return_dict_in_generate=True,
        **settings,
    )
    read = chat.tokenizer(list(prompts), padding=True, return_tensors="pt").to(chat.model.device)
    result = chat.model.generate(
        input_ids=read["input_ids"],
        attention_mask=read["attention_mask"],
        generation_config=config,
    )
    length = read["input_ids"].shape[1]
    return result, [until(row, end) for row in result.sequences[:, length:].tolist()]


@torch.inference_mode()
def log_prob(model: nn.Module, prompt: Sequence[int], written: Sequence[int]) -> float:
    """The log-probability (nats) of `written` after `prompt`, both token ids: the sum over its tokens."""
    ids = torch.tensor([[*prompt, *written]], device=next(model.parameters()).device)  # (1, t)
    logits = model(input_ids=ids, use_cache=False).logits  # (1, t, vocabulary)
    each = lm.token_log_probs(logits, ids)[0]  # (t - 1,)
    return each[len(prompt) - 1 :].sum().item()


@torch.inference_mode()
def next_tokens(model: nn.Module, ids: Sequence[int]) -> list[int]:
    """At each place of a text (token ids) the token that the model thinks likeliest after it."""
    read = torch.tensor([list(ids)], device=next(model.parameters()).device)  # (1, t)
    return model(input_ids=read, use_cache=False).logits[0].argmax(-1).tolist()
