"""Unit 7.5's exercises: the course's own solutions, and tests that tell known mistakes apart.

A test compares with the result of every mistake it knows. Small inputs come first, so that a message can show
them and a student can follow by hand. Inputs are binary fractions where the order of sums could change a rounding.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.exercises.diagnosis import Attempt, Wrong, need_gradient

# NF4's levels, as bitsandbytes stores them: quantiles of a normal distribution, scaled to -1 to 1, one of them 0
# (arXiv 2305.14314, appendix E).
NF4_LEVELS = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
)  # fmt: skip


def _fractions(*shape: int, seed: int, of: int = 8) -> Tensor:
    """Random multiples of 1 / `of` between -1 and 1: their sums and products are exact in fp32."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-of, of + 1, shape, generator=draw) / of


# --- lora_forward ---------------------------------------------------------------------------------------


def lora_forward(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """The frozen path plus alpha / r times the thin one, (..., d) (arXiv 2106.09685, equation 3)."""
    frozen = x @ weight.T
    thin = x @ A.T @ B.T
    return frozen + alpha / len(A) * thin


def examine_lora_forward(yours: Attempt) -> None:
    """A square matrix, which lets every wrong transpose through; then a batch of rows, and the gradient."""
    x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
    weight = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [-1.0, 0.0, 1.0]])
    A = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, -1.0]])
    B = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, -2.0]])
    inputs = (x, weight, A, B, 4.0)
    yours.compare(inputs, lora_forward(*inputs), lora_mistakes(*inputs))
    x = _fractions(2, 3, 6, seed=0)
    weight = _fractions(5, 6, seed=1)
    A = _fractions(4, 6, seed=2)
    B = _fractions(5, 4, seed=3)
    wanted = lora_forward(x, weight, A, B, 32.0)
    came = yours.compare((x, weight, A.requires_grad_(), B, 32.0), wanted)
    need_gradient(came, "A and B")


def lora_mistakes(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> dict[str, Tensor]:
    """What known mistakes give; `weight` is square."""
    base = x @ weight.T
    change = x @ A.T @ B.T
    r = len(A)
    scale = alpha / r
    scaled = scale * change
    by_width = alpha / x.shape[-1] * change
    by_root = alpha / r**0.5 * change
    not_transposed = x @ (B @ A)
    behind = base @ A.T @ B.T
    return {
        "Your result is the frozen layer's alone. Add the change that A and B make.": base,
        "Your result is the change alone. Add what the frozen layer gives, `x @ weight.T`.": scaled,
        "Your change is not scaled. Multiply it by alpha / r, with r the number of rows of A.": base + change,
        "You multiply by alpha. Divide it by r, the number of rows of A.": base + alpha * change,
        "Your scale is upside down: it is alpha / r, not r / alpha.": base + change / scale,
        "You divide alpha by the width of x. Divide it by r, the number of rows of A.": base + by_width,
        "You divide alpha by the square root of r. That is rsLoRA (arXiv 2312.03732); LoRA divides by r.": (
            base + by_root
        ),
        "You scale the sum. The frozen path counts once, and alpha / r goes to the change alone.": (
            scale * (base + change)
        ),
        "You subtract the change. Add it.": base - scaled,
        "You multiply x by `weight`. PyTorch stores (outputs, inputs), so it is `x @ weight.T`.": (x @ weight + scaled),
        "Your B A is not transposed. For rows x the change is x A^T B^T.": base + scale * not_transposed,
        "Your A reads what the frozen layer gives. It reads x: the two paths lie side by side.": (
            base + scale * behind
        ),
    }


# --- nf4_quantise ---------------------------------------------------------------------------------------


def nf4_quantise(weights: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    """The packed codes (n / 2,) of `weights` (n,) (arXiv 2305.14314, section 3), as bitsandbytes packs them."""
    blocks = weights.float().reshape(-1, block)
    largest = blocks.abs().amax(1, keepdim=True).clamp(min=1e-38)  # a block of zeros stays zero
    scaled = blocks * (1 / largest)  # times the inverse: bit for bit the library's
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(scaled, middles).flatten()
    packed = codes[0::2] * 16 + codes[1::2]
    return packed.to(torch.uint8)


def examine_nf4_quantise(yours: Attempt) -> None:
    """Two blocks of four by hand, one of them of small weights; then blocks of 64; then one of zeros."""
    levels = NF4_LEVELS
    weights = torch.tensor([0.5, -1.0, 0.1, -2.0, 0.05, 0.015, -0.03, 0.035])
    inputs = (weights, levels, 4)
    came = yours.compare(inputs, nf4_quantise(*inputs), quantise_mistakes(*inputs))
    need_bytes(came)
    sizes = torch.tensor([0.02, 3.0, 0.5, 1.0]).repeat_interleave(64)
    draw = torch.Generator().manual_seed(4)
    weights = torch.randn(256, generator=draw) * sizes
    yours.compare((weights, levels), nf4_quantise(weights, levels), quantise_mistakes(weights, levels, 64))
    weights = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, -0.5, 0.2, 0.0])
    division = (
        "A block of zeros got the code {}. Its largest value is 0, and 0 / 0 is nan, which is near to no level. Keep "
        "the divisor away from 0, with `clamp(min=1e-38)`."
    )
    wanted = nf4_quantise(weights, levels, 4)
    ends = {}
    for code in (0, 15):
        zeros = _packed(torch.full((4,), code))
        ends[division.format(code)] = torch.cat([zeros, wanted[2:]])
    yours.compare((weights, levels, 4), wanted, ends)


def need_bytes(came: Tensor) -> None:
    """Raise Wrong if the right codes are stored as larger numbers."""
    if came.dtype != torch.uint8:
        raise Wrong(
            f"Your numbers are right, but each is stored as {came.dtype}: {came.element_size()} bytes instead of one. "
            "Nothing would be saved. End with `.to(torch.uint8)`."
        )


def _packed(codes: Tensor) -> Tensor:
    """Two codes a byte, as numbers (n / 2,)."""
    packed = codes[0::2] * 16 + codes[1::2]
    return packed.to(torch.uint8)


def quantise_mistakes(weights: Tensor, levels: Tensor, block: int) -> dict[str, Tensor]:
    """What known mistakes give."""
    middles = (levels[1:] + levels[:-1]) / 2

    def nearest(numbers: Tensor) -> Tensor:
        return torch.bucketize(numbers.contiguous(), middles).flatten()

    blocks = weights.reshape(-1, block)
    scaled = blocks / blocks.abs().amax(1, keepdim=True)
    codes = nearest(scaled)
    together = nearest(weights / weights.abs().max())
    signed = nearest(blocks / blocks.amax(1, keepdim=True))
    swapped = codes.reshape(-1, 2).flip(1).flatten()
    above = torch.bucketize(scaled, levels).flatten()
    below = torch.bucketize(scaled, levels, right=True) - 1
    even = ((scaled + 1) * 7.5).round().long().flatten()
    half = len(codes) // 2
    distances = (scaled[..., None] - levels).abs()
    farthest = distances.argmax(-1).flatten()
    columns = weights.reshape(block, -1)
    of_columns = nearest(columns / columns.abs().amax(0))
    return {
        "Your weights are not scaled. Divide each block by its largest absolute value first.": _packed(nearest(blocks)),
        "You divide all blocks by one number, the largest of all weights. Each block has its own: small weights in a "
        "block of their own would else share a few levels around 0.": _packed(together),
        "You divide by the largest value of a block. Take the largest absolute value: the farthest from 0 may be "
        "negative.": _packed(signed),
        "Your two codes are in the wrong halves of the byte: the first belongs into the upper four bits.": (
            _packed(swapped)
        ),
        "You take the next level below. Take the nearest: the border is half way between two levels.": (
            _packed(below.clamp(min=0).flatten())
        ),
        "You search in the levels, which finds the next one above. Take the nearest: search in the middles between "
        "levels.": _packed(above),
        "Your levels lie at even distances. Use those of `levels`, which are dense around 0.": _packed(even),
        "Your codes are right but not packed. Two go into one byte: the first times 16, plus the second.": codes,
        "You pack the first half of the weights with the second half. Pack neighbours: `codes[0::2]` and "
        "`codes[1::2]`.": codes[:half] * 16 + codes[half:],
        "Your function returns the levels, not their places. Four bits hold a place from 0 to 15.": levels[codes],
        "You take the farthest level: use argmin, not argmax.": _packed(farthest),
        "Your blocks are columns. `reshape(-1, block)` has the weights of a block in a row.": _packed(of_columns),
    }


# --- nf4_dequantise -------------------------------------------------------------------------------------


def nf4_dequantise(packed: Tensor, scales: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    """The weights (n,) behind the bytes `packed` (n / 2,): each code's level times its block's scale."""
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
    blocks = levels[codes].reshape(-1, block)
    weights = blocks * scales[:, None]
    return weights.flatten()


def examine_nf4_dequantise(yours: Attempt) -> None:
    """Two blocks of four by hand, then four blocks of 64."""
    packed = torch.tensor([0xF0, 0x7A, 0x13, 0xE7], dtype=torch.uint8)
    scales = torch.tensor([0.5, 2.0])
    inputs = (packed, scales, NF4_LEVELS, 4)
    yours.compare(inputs, nf4_dequantise(*inputs), dequantise_mistakes(*inputs))
    draw = torch.Generator().manual_seed(5)
    packed = torch.randint(0, 256, (128,), generator=draw, dtype=torch.uint8)
    inputs = (packed, torch.rand(4, generator=draw) + 0.5, NF4_LEVELS)
    yours.compare(inputs, nf4_dequantise(*inputs), dequantise_mistakes(*inputs, 64))


def dequantise_mistakes(packed: Tensor, scales: Tensor, levels: Tensor, block: int) -> dict[str, Tensor]:
    """What known mistakes give."""
    upper = (packed >> 4).long()
    lower = (packed & 15).long()
    codes = torch.stack([upper, lower], dim=1).flatten()
    swapped = torch.stack([lower, upper], dim=1).flatten()
    upper_first = torch.cat([upper, lower])
    even = codes / 7.5 - 1
    right = levels[codes]
    each = scales.repeat_interleave(block)
    return {
        "You open the bytes the wrong way round: the first weight is in the upper four bits, `packed >> 4`.": (
            levels[swapped] * each
        ),
        "Upper and lower halves have to stand in turn, as the weights did. You put all upper ones first.": (
            levels[upper_first] * each
        ),
        "Your function returns levels between -1 and 1. Multiply each by the scale of its block.": right,
        "You use the first scale for all blocks.": right * scales[0],
        "You use the largest scale for all blocks. Each block has its own.": right * scales.max(),
        "Your scales change from weight to weight. All weights of a block share one: `repeat_interleave`, or "
        "reshape to (-1, block) first.": right * scales.repeat(block),
        "You divide by the scales. Quantising divided; the way back multiplies.": right / each,
        "You use the code as if it were the number. It is a place in `levels`: `levels[codes.long()]`.": codes * each,
        "Your levels lie at even distances. Look the codes up in `levels`.": even * each,
    }


# --- without_copies -------------------------------------------------------------------------------------


def runs_of_three(text: str) -> set[tuple[str, ...]]:
    """All runs of three words, in lower case; the whole text if it has fewer words."""
    words = text.lower().split()
    count = max(1, len(words) - 2)
    return {tuple(words[i : i + 3]) for i in range(count)}


def without_copies(texts: Sequence[str], test: Sequence[str], limit: float) -> list[int]:
    """Places of the `texts` that are like no text of `test` and no earlier one that stays, by the Jaccard index."""
    taken = [runs_of_three(text) for text in test]
    kept = []
    for i, text in enumerate(texts):
        runs = runs_of_three(text)
        if all(len(runs & other) / len(runs | other) < limit for other in taken):
            kept.append(i)
            taken.append(runs)
    return kept


COPIES = (
    "Can I return it within ten days or not",
    "can i return it within ten days or not",  # a copy but for capital letters
    "my blue ring is broken please help me now",
    "my blue ring is broken please help me today",  # 6 of 8 runs in common: at the limit
    "help me now please my blue ring is broken",  # the same words in another order
    "my blue ring is broken",  # all of its runs are in a longer text
    "yes please",
    "yes please",
    "please send the small cone to my sister",
    "please send the small cone to my brother",  # 5 of 7 runs of three in common, below the limit; of two, 6 of 8
    "hello dear team please tell me where my small green star",
    "dear team please tell me where my small green star is",  # a copy of the one before
    "team please tell me where my small green star is now",  # like the one before, and not like the first of the three
    "hello where is the red cube that i bought",  # in the test but for one word
)
IN_TEST = ("i need help with the warranty of my cone", "where is the red cube that i bought")


def examine_without_copies(yours: Attempt) -> None:
    """Equal texts, then a text of the test, then all kinds of likeness together."""
    equal = (["the cube is late", "a gift for noor please", "the cube is late"], ["nothing alike in here"], 0.75)
    yours.compare(equal, without_copies(*equal), equal_mistakes(equal[0]))
    leaked = (["where is the red cube", "thanks for the great cone"], ["where is the red cube"], 0.75)
    yours.compare(leaked, without_copies(*leaked), {BLIND: [0, 1]})
    everything = (COPIES, IN_TEST, 0.75)
    yours.compare(everything, without_copies(*everything), copy_mistakes(*everything))


BLIND = "Your function does not look at `test`. A text of the test must not be in the training data."


def equal_mistakes(texts: Sequence[str]) -> dict[str, list]:
    """What known mistakes give for three texts of which the first and the last are equal."""
    return {
        "Your function keeps every text. Two equal texts must give 1, and 1 is too like. Divide by the runs of both "
        "together, a common one counted once: `len(a | b)`.": [0, 1, 2],
        "Of two like texts you keep the later one. The earlier one stays.": [1, 2],
        "You take out both of two like texts. The earlier one stays.": [1],
        "Nothing is left: you compare each text with itself.": [],
        "Your function returns the places that go. Return those that stay.": [2],
        "Your function returns the texts. Return their places, counted from 0.": [texts[0], texts[1]],
        "Your function returns True or False for each text. Return the places of those that stay.": [True, True, False],
    }


def copy_mistakes(texts: Sequence[str], test: Sequence[str], limit: float) -> dict[str, list]:
    """What known mistakes give."""
    keep = partial(_kept, texts, test, limit)
    return {
        "You find only texts that are equal. Compare the share of runs that both have with `limit`.": (
            keep(alike=lambda a, b: float(a == b))
        ),
        '"At least" includes the limit itself: a share equal to `limit` is too like.': (
            _kept(texts, test, limit + 1e-9)
        ),
        "Capital letters count with you. Take `text.lower()`.": keep(runs=partial(_runs, lower=False)),
        "You compare sets of single words, so their order does not count. Take runs of three words.": (
            keep(runs=partial(_runs, size=1))
        ),
        "Your runs have two words. Take three.": keep(runs=partial(_runs, size=2)),
        "You divide by the runs of the shorter text, so a short text counts as a copy of each long one that holds it. "
        "Divide by the runs of both together.": keep(alike=lambda a, b: len(a & b) / max(1, min(len(a), len(b)))),
        "You compare with texts that have gone already. A text that is like one of those, and like none that stays, "
        "may stay.": keep(with_gone=True),
        "You compare with the first text of `test` only.": _kept(texts, test[:1], limit),
        "A text of fewer than three words has no runs with you, so its copies stay. Take it as one run.": (
            keep(runs=lambda text: runs_of_three(text) if len(text.split()) > 2 else set())
        ),
        "You look for copies of `test` alone. Copies among the training texts go too.": (
            [i for i, text in enumerate(texts) if _kept([text], test, limit)]
        ),
    }


def _kept(
    texts: Sequence[str],
    test: Sequence[str],
    limit: float,
    runs: Callable[[str], set] = runs_of_three,
    alike: Callable[[set, set], float] = lambda a, b: len(a & b) / max(1, len(a | b)),
    with_gone: bool = False,
) -> list[int]:
    """The reference with other runs, another likeness, or compared with texts that have gone, too."""
    taken, kept = [runs(text) for text in test], []
    for i, text in enumerate(texts):
        free = all(alike(runs(text), other) < limit for other in taken)
        kept += [i] if free else []
        taken += [runs(text)] if free or with_gone else []
    return kept


def _runs(text: str, size: int = 3, lower: bool = True) -> set[tuple[str, ...]]:
    words = text.lower().split() if lower else text.split()
    count = max(1, len(words) - size + 1)
    return {tuple(words[i : i + size]) for i in range(count)}


# --- loss_labels ----------------------------------------------------------------------------------------

IGNORED = -100  # the label that cross-entropy leaves out, in PyTorch and so in transformers


def loss_labels(ids: Tensor, opens: int, ends: int) -> Tensor:
    """Labels (t,): the tokens of each reply and its end, -100 for all else."""
    labels = torch.full_like(ids, -100)
    inside = False
    for i, token in enumerate(ids.tolist()):
        if inside:
            labels[i] = token
        inside = token == opens or (inside and token != ends)
    return labels


def examine_loss_labels(yours: Attempt) -> None:
    """One reply, then two of them, then one that was cut off. 1 ends a turn, 4 opens a reply, 0 is padding."""
    ids = torch.tensor([2, 20, 1, 3, 30, 31, 1, 4, 40, 41, 1, 0])
    came = yours.compare((ids, 4, 1), loss_labels(ids, 4, 1), label_mistakes(ids))
    need_whole_numbers(came)
    turns = [2, 20, 1, 3, 30, 1, 4, 40, 41, 1, 3, 31, 32, 1, 4, 42, 1, 0, 0]
    yours.compare((torch.tensor(turns), 4, 1), loss_labels(torch.tensor(turns), 4, 1), turn_mistakes(turns))
    cut = torch.tensor([2, 20, 1, 3, 30, 1, 4, 40, 41, 42])
    dropped = "You drop a reply that has no end. Learn what is there of it."
    yours.compare((cut, 4, 1), loss_labels(cut, 4, 1), {dropped: torch.full_like(cut, IGNORED)})


def need_whole_numbers(came: Tensor) -> None:
    """Raise Wrong if the right labels are floats."""
    if came.is_floating_point():
        raise Wrong("Your labels are right, but they are floats. Cross-entropy takes whole numbers: torch.int64.")


def label_mistakes(ids: Tensor) -> dict[str, Tensor]:
    """What known mistakes give for one reply, at 8 to 10 with its end, and padding at 11."""
    right = loss_labels(ids, 4, 1)

    def only(first: int, last: int) -> Tensor:
        return torch.cat([torch.full_like(ids[:first], IGNORED), ids[first:last], torch.full_like(ids[last:], IGNORED)])

    return {
        "You learn every token. Most of the loss would go into guessing what customers write.": ids,
        "You learn the padding behind the end too.": only(8, 12),
        "You learn the mark that opens the reply. It is given: the program writes it, not the model.": only(7, 11),
        "You leave out the end of the reply. Then the model never learns to stop.": only(8, 10),
        "You leave out the first token of the reply: your border is one place too late.": only(9, 11),
        "You shift the labels by one. The model does so itself: label i belongs to token i.": right.roll(-1),
        "You shift the labels the other way. Label i belongs to token i.": right.roll(1),
        "You learn everything but the reply.": torch.where(right == IGNORED, ids, IGNORED),
        "You take 0 where nothing is to be learned. 0 is a token like any other; the loss leaves out -100.": (
            right.where(right != IGNORED, 0)
        ),
        "Your function returns which tokens are learned. Return the labels: the token where it is learned, else "
        "-100.": right != IGNORED,
        "Your function returns the tokens of the reply. Keep the length: one label for each token.": ids[8:11],
    }


def turn_mistakes(turns: list[int]) -> dict[str, Tensor]:
    """What known mistakes give for two replies, at 7 to 9 and 15 to 16."""

    def learned(places: Sequence[int]) -> Tensor:
        return torch.tensor([token if i in places else IGNORED for i, token in enumerate(turns)])

    return {
        "You learn the first reply only. A conversation can have several.": learned(range(7, 10)),
        "You learn the last reply only. A conversation can have several.": learned(range(15, 17)),
        "From the first reply on you learn everything, the customer's next turn too. Stop at `ends`, and go on at the "
        "next `opens`.": learned(range(7, 19)),
        "Between two replies you learn the customer's turn. Stop at the first `ends` behind a reply.": (
            learned(range(7, 17))
        ),
    }


# --- dpo_loss -------------------------------------------------------------------------------------------


def dpo_loss(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor, beta: float) -> Tensor:
    """The mean of -log sigmoid(beta x margin) (arXiv 2305.18290, equation 7); inputs (n, tokens) in nats."""
    gained = chosen.sum(1) - chosen_before.sum(1)  # how much likelier than at the start
    lost = rejected.sum(1) - rejected_before.sum(1)
    margin = beta * (gained - lost)
    return -F.logsigmoid(margin).mean()


def examine_dpo_loss(yours: Attempt) -> None:
    """Two pairs by hand, then random ones with the gradient, then a pair that is far on the wrong side."""
    chosen = torch.tensor([[-1.0, -0.5, -0.5], [-2.0, -1.0, 0.0]])
    rejected = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]])
    chosen_before = torch.tensor([[-1.0, -1.5, -1.0], [-2.5, -1.0, 0.0]])
    rejected_before = torch.tensor([[-1.5, -1.0], [-1.0, 0.0]])
    inputs = (chosen, rejected, chosen_before, rejected_before, 0.5)
    yours.compare(inputs, dpo_loss(*inputs), dpo_mistakes(*inputs))
    shapes = ((5, 7), (5, 4), (5, 7), (5, 4))
    after_and_before = [-2 * _fractions(*shape, seed=20 + i).abs() for i, shape in enumerate(shapes)]
    inputs = (after_and_before[0].requires_grad_(), *after_and_before[1:], 0.1)
    came = yours.compare(inputs, dpo_loss(*inputs).detach(), dpo_mistakes(*inputs))
    need_gradient(came, "the model in training")
    far = (torch.tensor([[-2000.0]]), torch.tensor([[-1.0]]), torch.tensor([[-1.0]]), torch.tensor([[-1.0]]), 0.1)
    underflow = (
        "For a pair that is far on the wrong side your loss is infinite: its sigmoid is 0 in 32 bits, and log 0 is "
        "minus infinity. Use `F.logsigmoid`."
    )
    yours.compare(far, dpo_loss(*far), {underflow: torch.tensor(float("inf"))})


def dpo_mistakes(
    chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor, beta: float
) -> dict[str, Tensor]:
    """What known mistakes give."""
    inputs = [log_probs.detach() for log_probs in (chosen, rejected, chosen_before, rejected_before)]
    c, r, cb, rb = (log_probs.sum(1) for log_probs in inputs)
    c_mean, r_mean, cb_mean, rb_mean = (log_probs.mean(1) for log_probs in inputs)
    c_each, r_each, cb_each, rb_each = map(_by_length, inputs)
    margin = (c - cb) - (r - rb)
    of_means = (c_mean - cb_mean) - (r_mean - rb_mean)
    by_length = (c_each - cb_each) - (r_each - rb_each)
    scaled = beta * margin

    def loss(margins: Tensor) -> Tensor:
        return -F.logsigmoid(beta * margins).mean()

    return {
        "Your loss prefers the rejected replies. The margin is chosen minus rejected, each in training minus before.": (
            loss(-margin)
        ),
        "You compare chosen with rejected and forget where the model started. Subtract the log-probabilities before.": (
            loss(c - r)
        ),
        "You add the difference that was there before. Subtract it.": loss(c - r + cb - rb),
        "Your beta stands outside of log sigmoid, where it is only a factor of the learning rate. It belongs inside.": (
            -beta * F.logsigmoid(margin).mean()
        ),
        "Your loss does not use beta. Multiply the margin by it.": -F.logsigmoid(margin).mean(),
        "You divide by beta. Multiply the margin by it.": -F.logsigmoid(margin / beta).mean(),
        "Your loss has the wrong sign: it would be made smaller by smaller margins. It is minus log sigmoid.": (
            -loss(margin)
        ),
        "The logarithm is missing: the loss is -log sigmoid(...), not -sigmoid(...).": -torch.sigmoid(scaled).mean(),
        "The logarithm is missing: the loss is -log sigmoid(...), not 1 - sigmoid(...).": (
            1 - torch.sigmoid(scaled).mean()
        ),
        "You add the pairs up. Take their mean.": len(c) * loss(margin),
        "You take the mean of the pairs' margins first. Take the loss of each pair, then the mean.": (
            -F.logsigmoid(beta * margin.mean())
        ),
        "You take the mean over the tokens. The log-probability of a reply is the sum.": loss(of_means),
        "You divide by the length of each reply. The log-probability of a reply is the sum over its tokens; lengths do "
        "not enter this loss.": loss(by_length),
        "You take the ratio of the log-probabilities. The logarithm of a ratio is a difference.": loss(c / cb - r / rb),
        "Your loss does not look at the rejected replies.": loss(c - cb),
        "Your loss does not look at the chosen replies.": loss(rb - r),
    }


# --- merge ----------------------------------------------------------------------------------------------


def _by_length(log_probs: Tensor) -> Tensor:
    """The mean (n,) over the tokens of each reply that are not padding."""
    lengths = (log_probs != 0).sum(1)
    return log_probs.sum(1) / lengths


def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """W + (alpha / r) B A (arXiv 2106.09685, section 4.1), (d, k), added in fp32 and rounded once."""
    change = alpha / len(A) * (B @ A)
    merged = weight.float() + change
    return merged.to(weight.dtype)


def examine_merge(yours: Attempt) -> None:
    """A square matrix in 32 bits by hand, then one in bfloat16, where rounding too early shows."""
    weight = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [-1.0, 0.0, 1.0]])
    A = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, -1.0]])
    B = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, -2.0]])
    inputs = (weight, A, B, 4.0)
    yours.compare(inputs, merge(*inputs), merge_mistakes(*inputs))
    weight = (2 * _fractions(6, 5, seed=30)).bfloat16()
    inputs = (weight, _fractions(2, 5, seed=31, of=1000), _fractions(6, 2, seed=32, of=1000), 4.0)
    wide = (
        "Your sum is right, but it comes in 32 bits for a weight in 16: the model would double in size. End with "
        "`.to(weight.dtype)`."
    )
    wanted = merge(*inputs)
    came = yours.compare(inputs, wanted, {wide: merge(weight.float(), *inputs[1:])}, almost=EARLY)
    if came.dtype != weight.dtype:
        raise Wrong(wide)


EARLY = (
    "You round more than once: each step in 16 bits loses some of the change. Add in 32 bits, `weight.float() + ...`, "
    "and round at the end."
)


def merge_mistakes(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> dict[str, Tensor]:
    """What known mistakes give for a square matrix."""
    r = len(A)
    product = B @ A
    change = alpha / r * product
    by_root = alpha / r**0.5 * product
    by_width = alpha / len(weight) * product
    return {
        "Your function returns the old weights. Add the change.": weight,
        "Your function returns the change alone. Add it to `weight`.": change,
        "Your change is not scaled. Multiply B A by alpha / r.": weight + product,
        "You multiply by alpha. Divide it by r, the number of rows of A.": weight + alpha * product,
        "Your scale is upside down: it is alpha / r, not r / alpha.": weight + r / alpha * product,
        "You divide alpha by the square root of r. That is rsLoRA (arXiv 2312.03732); LoRA divides by r.": (
            weight + by_root
        ),
        "You divide alpha by the width of `weight`. Divide it by r, the number of rows of A.": weight + by_width,
        "You subtract the change. Add it.": weight - change,
        "Your change is transposed: B A is (d, k), as `weight` is.": weight + change.T,
        "You scale the sum. `weight` counts once, and alpha / r goes to the change alone.": (
            alpha / r * (weight + product)
        ),
        "You multiply the weight by the change. Add it.": weight @ change,
    }
