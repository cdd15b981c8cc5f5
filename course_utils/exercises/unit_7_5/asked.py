"""Unit 7.5's exercises and quizzes: what is asked. The solutions are in solutions.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from course_utils.exercises.registry import Answer, Exercise, Quiz

if TYPE_CHECKING:
    from torch import Tensor

# --- stubs: what stands in the student's cells ----------------------------------------------------------


def lora_forward(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """What a linear layer with a LoRA adapter gives (arXiv 2106.09685, equation 3): (..., d).

    `x` is (..., k). The frozen `weight` is (d, k), as PyTorch stores it. `A` is (r, k) and `B` is
    (d, r). The change B A counts alpha / r times. There is no bias.
    """
    # Your code here
    raise NotImplementedError


def nf4_quantise(weights: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    """Each weight as one of 16 levels, two in a byte (arXiv 2305.14314): (n / 2,), torch.uint8.

    Cut `weights` (n,) into blocks of `block` in a row and divide each block by its largest absolute
    value. The code of a weight is the place (0 to 15) of the nearest of the `levels` (16,), which
    rise from -1 to 1. Of two weights in a row the first goes into the upper four bits of a byte. A
    block of zeros gets the code of the level 0.
    """
    # Your code here
    raise NotImplementedError


def nf4_dequantise(packed: Tensor, scales: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    """The weights (n,) for which the bytes `packed` (n / 2,) stand: `nf4_quantise` undone.

    `scales` (n / block,) holds the largest absolute value of each block of `block` weights.
    """
    # Your code here
    raise NotImplementedError


def without_copies(texts: Sequence[str], test: Sequence[str], limit: float) -> list[int]:
    """Which training `texts` may stay: their places, counted from 0, in rising order.

    A text goes if it is too like a text of `test` (leakage), or too like an earlier text that stays
    (a near-duplicate). Take the set of all runs of three words of each text, in lower case; a text
    of fewer words is one run. Too like: of the runs that either of two texts has, the share that
    both have is at least `limit`.
    """
    # Your code here
    raise NotImplementedError


def loss_labels(ids: Tensor, opens: int, ends: int) -> Tensor:
    """The labels (t,) for the tokens `ids` (t,): the token where it is to be learned, else -100.

    The model learns each reply: what follows the token `opens`, up to and with the next token
    `ends`. There can be several replies. It does not learn the mark `opens`, the other turns (they
    end with `ends` too), or the padding at the end. A reply that was cut off has no `ends`; what is
    there of it is learned.
    """
    # Your code here
    raise NotImplementedError


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_before: Tensor,
    rejected_before: Tensor,
    beta: float,
) -> Tensor:
    """The loss of DPO (arXiv 2305.18290, equation 7), the mean over n pairs: a tensor ().

    Each input is (n, tokens): the log-probability of every token of n replies, and 0 behind the end
    of a shorter one. Two come from the model in training, two (`_before`) from the frozen model
    that it started as.
    """
    # Your code here
    raise NotImplementedError


def merge(weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """One matrix (d, k) that does what `weight` and its adapter did: W + (alpha / r) B A.

    `weight` (d, k) may be in 16 bits; `A` (r, k) and `B` (d, r) are in 32. Add in 32 bits, and
    round once, to the number format of `weight`.
    """
    # Your code here
    raise NotImplementedError


# --- the exercises, in the order of the notebook --------------------------------------------------------

EXERCISES = [
    Exercise(
        "7.5.lora_forward",
        "A layer with LoRA",
        difficulty="easy",
        minutes=10,
        stub=lora_forward,
        hints=(
            "Without the adapter the layer gives `x @ weight.T`: PyTorch stores one row for each output. Both paths "
            "start from the same x, and their results are added.",
            "The change for a row x is x A^T B^T: first down to r numbers, `x @ A.T`, then up to d. No matrix of the "
            "size of `weight` is needed.",
            "r is the number of rows of A. The change counts `alpha / len(A)` times; the frozen path counts once.",
        ),
        notice="two thin products do it. With B at zero the layer is the old one, and there training starts.",
    ),
    Exercise(
        "7.5.nf4_quantise",
        "Four bits for a weight",
        difficulty="medium",
        minutes=20,
        stub=nf4_quantise,
        hints=(
            "`weights.reshape(-1, block)` has one block in each row. `abs().amax(1, keepdim=True)` is the largest "
            "absolute value of each; dividing by it brings every weight between -1 and 1.",
            "The nearest level changes half way between two levels. `torch.bucketize(scaled, middles)` counts how "
            "many of the 15 middles lie below a number: that is the code. (Or compare with all 16 levels, "
            "`(scaled[..., None] - levels).abs().argmin(-1)`.)",
            "0 / 0 is nan. `clamp(min=1e-38)` on the largest value lets a block of zeros stay zero.",
            "Two codes make a byte: `codes[0::2] * 16 + codes[1::2]`, then `.to(torch.uint8)`.",
        ),
        notice="one large weight makes its whole block coarse, and only its block: that is why blocks are small.",
    ),
    Exercise(
        "7.5.nf4_dequantise",
        "And back to numbers",
        difficulty="easy",
        minutes=10,
        stub=nf4_dequantise,
        hints=(
            "Open each byte: `packed >> 4` is the upper half, `packed & 15` the lower. They have to stand in turn "
            "again: `torch.stack([upper, lower], dim=1).flatten()`.",
            "A code is a place in `levels`, not a number: `levels[codes.long()]`.",
            "Each block has its own scale: reshape the levels to (-1, block), multiply by `scales[:, None]`, flatten.",
        ),
        notice="this runs in each forward pass: 4-bit weights save memory, not work.",
    ),
    Exercise(
        "7.5.without_copies",
        "Copies out",
        difficulty="medium",
        minutes=20,
        stub=without_copies,
        hints=(
            "First a function for the runs of one text: split `text.lower()` into words and put "
            "`tuple(words[i : i + 3])` into a set, for each i from 0 to `len(words) - 3`. With fewer than three "
            "words take i = 0, so that the set is not empty.",
            "For two sets a and b the share is `len(a & b) / len(a | b)`. It is the Jaccard index: 1 for equal sets, "
            "0 for sets with nothing in common.",
            "Keep a list of the sets that nobody may be like. It starts with all sets of `test`. Go through `texts`: "
            "if no set in the list is too like, keep the place and add the set to the list.",
        ),
        notice="leakage makes a test too easy, and copies make the model learn some texts by heart.",
        also=("runs_of_three",),
    ),
    Exercise(
        "7.5.loss_labels",
        "What is learned",
        difficulty="medium",
        minutes=15,
        stub=loss_labels,
        hints=(
            "Start with -100 everywhere: `torch.full_like(ids, -100)`. Then copy a token into its own place wherever "
            "it is to be learned. Do not shift anything: the model compares place i with label i + 1 by itself.",
            "Go through the tokens with one flag: are we inside a reply? It becomes true behind `opens` and false "
            "behind `ends`.",
            "The order decides about the border. First copy the token if the flag is set, then change the flag: so "
            "`opens` is not copied, and `ends` is.",
        ),
        notice="one token decides whether the model ever stops: the `ends` behind the reply.",
    ),
    Exercise(
        "7.5.dpo_loss",
        "Preferences without a reward model",
        difficulty="medium",
        minutes=20,
        stub=dpo_loss,
        hints=(
            "The log-probability of a reply is the sum over its tokens: `chosen.sum(1)`. Padding is 0 and adds "
            "nothing.",
            "For each reply: how much likelier has training made it? `chosen.sum(1) - chosen_before.sum(1)`, and the "
            "same for the rejected one. Chosen minus rejected is the margin of the pair.",
            "The loss of a pair is -log sigmoid(beta x margin). `F.logsigmoid` is exact where `log(sigmoid(...))` "
            "runs into log 0. At the end take the mean of the pairs.",
        ),
        notice="before the first step every margin is 0 and the loss is log 2. It only compares with the start.",
    ),
    Exercise(
        "7.5.merge",
        "The adapter becomes part of the weights",
        difficulty="easy",
        minutes=10,
        stub=merge,
        hints=(
            "B times A is (d, k), as `weight` is. Order counts: (d, r) times (r, k).",
            "`weight.float()` is the weight in 32 bits. Add `alpha / r` times B A to it, into something new.",
            "Round at the very end: `.to(weight.dtype)`.",
        ),
        notice="a change smaller than half a step of the number format is lost. In 4 bits the steps are wide.",
    ),
]

# --- quizzes --------------------------------------------------------------------------------------------

QUIZZES = [
    Quiz(
        "7.5.todays_price",
        "The assistant has to name today's price, and prices change daily. What helps?",
        (
            Answer(
                "Fine-tune on all prices once, with a high rank.",
                "Tomorrow the weights hold yesterday's prices, and the model says them with the same confidence.",
            ),
            Answer(
                "Fine-tune every night.",
                "It can be done, and it is slow, dear and never exact: weights are a poor table. Nobody could say "
                "where a wrong price came from.",
            ),
            Answer(
                "Look the price up and put it into the prompt; fine-tune for the manner of answering.",
                "Facts that change belong where they can be changed and quoted. Fine-tuning teaches habits: to use the "
                "record in the prompt, in the shop's own tone.",
                right=True,
            ),
            Answer(
                "A larger model.",
                "It has not seen today's list either, however large it is.",
            ),
        ),
    ),
    Quiz(
        "7.5.zero_start",
        "LoRA starts with B = 0 and a random A. What would happen if both started at zero?",
        (
            Answer(
                "Nothing would ever be learned.",
                "The gradient of B holds A as a factor, and the gradient of A holds B. If both are zero, both "
                "gradients are, and no step moves anything.",
                right=True,
            ),
            Answer(
                "The same, only a few steps later.",
                "There is no first step: each of the two gradients has the other matrix as a factor.",
            ),
            Answer(
                "The model would start broken.",
                "It would start as the old model, as it does with B = 0 alone. Broken it would be with both random.",
            ),
        ),
    ),
    Quiz(
        "7.5.double_quantisation",
        "NF4 has 4 bits for each weight and one 32-bit scale for each block of 64. What does double quantisation do?",
        (
            Answer(
                "It quantises the weights a second time, to 2 bits.",
                "The weights keep their 4-bit codes. What is quantised the second time is something else.",
            ),
            Answer(
                "It stores the scales in 8 bits, with one 32-bit scale for each 256 of them.",
                "32 / 64 = 0.5 bit for each weight becomes 8 / 64 + 32 / (64 x 256) = 0.127 (arXiv 2305.14314, section "
                "3). In a 7B model that saves about 0.3 GB.",
                right=True,
            ),
            Answer(
                "It quantises the adapters too.",
                "They stay in 16 or 32 bits: their small steps would be lost in 4.",
            ),
            Answer(
                "It takes blocks of 32 instead of 64, for a smaller error.",
                "That would double what the scales need. Double quantisation makes them smaller.",
            ),
        ),
    ),
    Quiz(
        "7.5.never_stops",
        "After fine-tuning the model answers well and then goes on writing, to the limit. What is the likely cause?",
        (
            Answer(
                "The learning rate was too high.",
                "Then the answer itself would suffer. Here only the end is missing.",
            ),
            Answer(
                "Too few conversations.",
                "An end stands in each of them, so it is learned among the first things, if it is learned at all.",
            ),
            Answer(
                "The rank is too small to hold the end token.",
                "It is one token among many, and the easiest of all: it follows the same goodbye each time.",
            ),
            Answer(
                "The end token had the label -100.",
                "What has the label -100 is not learned. It happens easily where padding and end share one token and "
                "all padding is masked. Look at the last labels of a row.",
                right=True,
            ),
        ),
    ),
    Quiz(
        "7.5.two_curves",
        "The training loss falls to nearly zero, the validation loss falls and then rises. What do you do?",
        (
            Answer(
                "Train longer, until the validation loss falls again.",
                "The model has begun to learn its examples by heart. More passes over the same ones add to that.",
            ),
            Answer(
                "Take the checkpoint with the lowest validation loss, and next time more data or fewer epochs.",
                "That checkpoint is the one to measure on the test. The rise says that what came afterwards helped "
                "with the training examples alone.",
                right=True,
            ),
            Answer(
                "Take the last checkpoint, because its training loss is lowest.",
                "Customers write messages that were not in training. For those it is the worse one.",
            ),
            Answer(
                "Put the validation conversations into the training data.",
                "Then both curves fall, and nothing is left that could warn you.",
            ),
        ),
    ),
    Quiz(
        "7.5.merge_4bit",
        "You trained a QLoRA adapter. Why not merge it into the 4-bit weights and be done?",
        (
            Answer(
                "The adapter was trained for 16-bit weights and does not fit to 4-bit ones.",
                "The opposite: it was trained on top of the 4-bit weights.",
            ),
            Answer(
                "The sum has to be one of 16 levels again, and a change smaller than half the way to the next is lost.",
                "So rounding throws much of the change away, and adds an error of its own. Merge in 16 bits; quantise "
                "afterwards only if you measure what it costs.",
                right=True,
            ),
            Answer(
                "A merged model is slower.",
                "A merged model is as fast as the old one. It is the adapter beside the weights that costs time.",
            ),
        ),
    ),
]
