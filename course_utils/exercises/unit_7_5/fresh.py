"""Unit 7.5's exercises with fresh examples, drawn when a class is graded: whoever learned the public ones fails.

All stay within what the stubs promise. Numbers are binary fractions: every order of sums gives the same.
"""

from random import Random

import torch
from torch import Tensor

from course_utils.exercises import drawing
from course_utils.exercises.diagnosis import Attempt, Wrong, need_gradient
from course_utils.exercises.unit_7_5 import solutions

# --- lora_forward, merge --------------------------------------------------------------------------------


def fresh_lora_forward(yours: Attempt, draw: Random) -> None:
    """Wide and tall layers, rows and batches of rows, a rank of 1; the gradient at the end."""
    for rows in ((3,), (2, 4), (1,), (2, 1, 3)):
        d, k = draw.sample(range(2, 9), 2)
        A, B, alpha = _adapter(draw, d, k)
        x = drawing.fractions(draw, *rows, k)
        weight = drawing.fractions(draw, d, k)
        wanted = solutions.lora_forward(x, weight, A, B, alpha)
        came = yours.compare((x, weight, A.requires_grad_(), B, alpha), wanted)
        need_gradient(came, "A and B")


def _adapter(draw: Random, d: int, k: int, of: int = 8) -> tuple[Tensor, Tensor, float]:
    """A (r, k), B (d, r) and alpha."""
    r = draw.choice((1, 2, 4))
    alpha = draw.choice((0.5, 2.0, 8.0, 16.0))
    A = drawing.fractions(draw, r, k, of=of)
    B = drawing.fractions(draw, d, r, of=of)
    return A, B, alpha


def fresh_merge(yours: Attempt, draw: Random) -> None:
    """Weights in 32 bits and in both formats of 16."""
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        d, k = draw.sample(range(2, 9), 2)
        weight = drawing.fractions(draw, d, k).to(kind)
        adapter = _adapter(draw, d, k, of=64)
        wanted = solutions.merge(weight, *adapter)
        came = yours.compare((weight, *adapter), wanted)
        if came.dtype != kind:
            raise Wrong(f"Your sum is right, but it comes as {came.dtype} for a weight in {kind}.")


# --- nf4_quantise, nf4_dequantise -----------------------------------------------------------------------


def fresh_nf4_quantise(yours: Attempt, draw: Random) -> None:
    """Blocks of several sizes with scales of their own, one of them of zeros; then blocks of the usual size."""
    levels = solutions.NF4_LEVELS
    for size in (4, 8, 32):
        blocks = draw.randint(2, 4)
        weights = _in_blocks(draw, blocks, size)
        weights[:size] = 0.0
        wanted = solutions.nf4_quantise(weights, levels, size)
        yours.compare((weights, levels, size), wanted)
    weights = _in_blocks(draw, 3, 64)
    wanted = solutions.nf4_quantise(weights, levels)
    came = yours.compare((weights, levels), wanted)
    solutions.need_bytes(came)


def _in_blocks(draw: Random, blocks: int, size: int) -> Tensor:
    """Weights (blocks * size,) that lie, when scaled, at 64ths: none of them is half way between two levels."""
    scaled = drawing.fractions(draw, blocks, size, of=32) / 2
    for block in scaled:
        place = draw.randrange(size)
        block[place] = draw.choice((-1.0, 1.0))
    scales = draw.choices((0.0625, 0.5, 1.0, 8.0), k=blocks)
    weights = scaled * torch.tensor(scales)[:, None]
    return weights.flatten()


def fresh_nf4_dequantise(yours: Attempt, draw: Random) -> None:
    """Blocks of several sizes, then of the usual one."""
    levels = solutions.NF4_LEVELS
    for size in (2, 8, 16):
        blocks = draw.randint(2, 5)
        packed, scales = _random_bytes(draw, blocks, size)
        wanted = solutions.nf4_dequantise(packed, scales, levels, size)
        yours.compare((packed, scales, levels, size), wanted)
    packed, scales = _random_bytes(draw, 3, 64)
    wanted = solutions.nf4_dequantise(packed, scales, levels)
    yours.compare((packed, scales, levels), wanted)


def _random_bytes(draw: Random, blocks: int, size: int) -> tuple[Tensor, Tensor]:
    """Two codes a byte (blocks * size / 2,), and the scales (blocks,)."""
    raw = draw.randbytes(blocks * size // 2)
    packed = torch.tensor(list(raw), dtype=torch.uint8)
    eighths = draw.choices(range(1, 17), k=blocks)
    scales = torch.tensor(eighths) / 8
    return packed, scales


# --- without_copies -------------------------------------------------------------------------------------

WORDS = ("the", "red", "cube", "is", "late", "again", "please", "help", "my", "blue", "ring", "broke", "today")


def fresh_without_copies(yours: Attempt, draw: Random) -> None:
    """Texts of which many are alike, in whole or in part, with both limits that halves and quarters give."""
    for limit in (0.5, 0.75, 0.5, 0.75):
        texts = _alike_texts(draw, 12)
        known = draw.choice(texts)
        test = [*_alike_texts(draw, 1), known]
        wanted = solutions.without_copies(texts, test, limit)
        yours.compare((texts, test, limit), wanted)


def _alike_texts(draw: Random, count: int) -> list[str]:
    """Texts, each new or made from an earlier one."""
    texts: list[str] = []
    for _ in range(count):
        length = draw.choice((1, 2, 5, 8, 10))
        words = draw.choices(WORDS, k=length)
        if texts and draw.random() < 0.7:
            earlier = draw.choice(texts)
            words = _changed(draw, earlier.split())
        text = " ".join(words)
        texts.append(text)
    return texts


def _changed(draw: Random, words: list[str]) -> list[str]:
    """The same words, or nearly: one more, one fewer, one another, in capitals, or the two halves swapped."""
    half = len(words) // 2
    another = draw.choice(WORDS)
    ways = (
        words,
        [*words, another],
        words[1:] or words,
        [*words[:-1], another],
        [word.upper() for word in words],
        words[half:] + words[:half],
    )
    return draw.choice(ways)


# --- loss_labels ----------------------------------------------------------------------------------------


def fresh_loss_labels(yours: Attempt, draw: Random) -> None:
    """Conversations with one to three replies, padded or cut off, with other marks each time."""
    for replies in (1, 2, 3, 2):
        asks, opens, ends = draw.sample(range(1, 10), 3)
        ids: list[int] = []
        for _ in range(replies):
            ids += [asks, *_tokens(draw), ends, opens, *_tokens(draw), ends]
        cut_off = [asks, *_tokens(draw), ends, opens, *_tokens(draw)]
        ids += draw.choice(([0, 0, 0], [0], cut_off))
        conversation = torch.tensor(ids)
        wanted = solutions.loss_labels(conversation, opens, ends)
        came = yours.compare((conversation, opens, ends), wanted)
        solutions.need_whole_numbers(came)


def _tokens(draw: Random) -> list[int]:
    """One to five tokens of text."""
    count = draw.randint(1, 5)
    return draw.choices(range(20, 100), k=count)


# --- dpo_loss -------------------------------------------------------------------------------------------


def fresh_dpo_loss(yours: Attempt, draw: Random) -> None:
    """One to six pairs of replies of different lengths; the gradient each time."""
    for beta in (0.125, 0.25, 0.5, 1.0):
        pairs = draw.randint(1, 6)
        chosen = _log_probs(draw, pairs)
        rejected = _log_probs(draw, pairs)
        before = (_reply_before(draw, chosen), _reply_before(draw, rejected))
        wanted = solutions.dpo_loss(chosen, rejected, *before, beta)
        came = yours.compare((chosen.requires_grad_(), rejected, *before, beta), wanted)
        need_gradient(came, "the model in training")


def _log_probs(draw: Random, replies: int) -> Tensor:
    """Log-probabilities (replies, tokens) in eighths, all below 0 but for the places behind a reply's end."""
    longest = draw.randint(2, 7)
    numbers = -drawing.fractions(draw, replies, longest).abs() - 0.125
    for reply in numbers[1:]:
        length = draw.randint(1, longest)
        reply[length:] = 0.0
    return numbers


def _reply_before(draw: Random, after: Tensor) -> Tensor:
    """What the model gave the same replies at the start: other numbers, the same ends."""
    numbers = -drawing.fractions(draw, *after.shape).abs() - 0.125
    return torch.where(after == 0, 0.0, numbers)
