"""Unit 7.1: fresh examples for grading. Who learned the notebook's by heart fails here.

Each function draws a few inputs and compares a student's results with those of the course's solution. What is drawn
keeps to the stub's promises, and no result hangs on rounding or on a tie that nobody has decided.
"""

from itertools import product
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.exercises import drawing
from course_utils.exercises.diagnosis import Attempt, need_gradient
from course_utils.exercises.unit_7_1 import solutions
from course_utils.exercises.unit_7_1.inputs import encode_texts

# --- zero_shot ------------------------------------------------------------------------------------------

COLOURS = ("red", "blue", "green", "white", "black", "golden")
SHAPES = ("cube", "cone", "ring", "star", "ball", "toy")
TEMPLATES = ("a photo of a {}", "my small {}", "one {} on a shelf", "{}", "the {} that we sell", "a {} in a box")


def fresh_zero_shot(yours: Attempt, draw: Random) -> None:
    """Many pictures and several templates, then one picture and one template."""
    for pictures, classes, templates in ((80, 5, 3), (80, 3, 2), (40, 6, 4), (1, 2, 1)):
        names = _names(draw, classes)
        chosen = draw.sample(TEMPLATES, templates)
        images = _clear_pictures(draw, pictures, names, chosen)
        inputs = (images, names, chosen, encode_texts)
        wanted = solutions.zero_shot(*inputs)
        yours.compare(inputs, wanted)


def _names(draw: Random, count: int) -> list[str]:
    """Different names of classes."""
    toys = [*product(COLOURS, SHAPES)]
    return [" ".join(toy) for toy in draw.sample(toys, count)]


def _clear_pictures(draw: Random, count: int, names: list[str], templates: list[str]) -> Tensor:
    """Pictures (count, 8) whose best class is ahead of the second by more than rounding."""
    filled = []
    for template in templates:
        texts = [template.format(name) for name in names]
        filled.append(encode_texts(texts))
    mean = torch.stack(filled).mean(0)
    classes = F.normalize(mean, dim=-1)
    images = drawing.unit_vectors(draw, 2 * count + 20, 8)
    best, second = (images @ classes.T).topk(2).values.T
    clear = best - second > 0.001
    return images[clear][:count]


# --- contrastive_loss -----------------------------------------------------------------------------------


def fresh_contrastive_loss(yours: Attempt, draw: Random) -> None:
    """Batches of several sizes, one of a single pair; then the gradient."""
    for pairs in (draw.randint(2, 4), draw.randint(5, 9), 1):
        inputs = _batch(draw, pairs)
        wanted = solutions.contrastive_loss(*inputs)
        yours.compare(inputs, wanted)
    image, text, scale = _batch(draw, 4)
    wanted = solutions.contrastive_loss(image, text, scale)
    came = yours.compare((image, text.requires_grad_(), scale), wanted)
    need_gradient(came, "the texts")


def _batch(draw: Random, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of pictures and texts, and a scale."""
    width = draw.randint(3, 6)
    image, text = (drawing.unit_vectors(draw, pairs, width) for _ in range(2))
    scale = draw.randint(3, 12)
    return image, text, torch.tensor(float(scale))


# --- word_error_rate ------------------------------------------------------------------------------------

WORDS = ("show", "me", "the", "red", "cube", "please", "no", "two", "cones", "or", "rings")


def fresh_word_error_rate(yours: Attempt, draw: Random) -> None:
    """Sentences that were heard badly; one alone; words in another order; silence; more heard than said."""
    said = [_sentence(draw, length) for length in draw.sample(range(1, 9), 4)]
    heard = [_heard(draw, sentence) for sentence in said]
    short = _sentence(draw, 2)
    long = _sentence(draw, 5)
    turned = " ".join(reversed(long.split()))
    for inputs in (
        (said, heard),
        (heard[:1] + said[1:], said[:1] + heard[1:]),
        ([long], [turned]),
        ([short, long], ["", long]),
        ([short], [f"{long} {short} {long}"]),
    ):
        wanted = solutions.word_error_rate(*inputs)
        yours.compare(inputs, wanted)


def _sentence(draw: Random, length: int) -> str:
    """Words of which some come twice."""
    few = draw.sample(WORDS, 5)
    return " ".join(draw.choices(few, k=length))


def _heard(draw: Random, sentence: str) -> str:
    """A sentence with words left out, swapped and put in; never silence."""
    heard = []
    for word in sentence.split():
        other = draw.choice(WORDS)
        heard += draw.choice([[word], [word], [other], [other, word], []])
    return " ".join(heard) or draw.choice(WORDS)


# --- late_fusion ----------------------------------------------------------------------------------------


def fresh_late_fusion(yours: Attempt, draw: Random) -> None:
    """All senses there, some missing, one left, none."""
    count = draw.randint(3, 5)
    for missing in (0, 1, count - 1):
        inputs = _senses(draw, count, missing)
        wanted = solutions.late_fusion(*inputs)
        yours.compare(inputs, wanted)
    solutions.examine_nothing_there(yours, count)


def _senses(draw: Random, count: int, missing: int) -> tuple[list[Tensor | None], list[float]]:
    """Log-probabilities of `count` encoders, `missing` of them None, and different weights."""
    cases, classes = draw.randint(1, 4), draw.randint(2, 5)
    predictions: list[Tensor | None] = []
    for _ in range(count):
        logits = drawing.normal(draw, cases, classes)
        predictions.append(logits.log_softmax(-1))
    for place in draw.sample(range(count - 1), missing):  # one comes behind, so weights can get out of step
        predictions[place] = None
    weights = draw.sample([0.25, 0.5, 1.0, 1.5, 2.0, 3.0], count)
    return predictions, weights


# --- cross_attention ------------------------------------------------------------------------------------


def fresh_cross_attention(yours: Attempt, draw: Random) -> None:
    """Without missing tokens; with some; with a mask that hides none; with one token to look at."""
    whole, hidden, seen = (_tokens(draw, draw.randint(3, 6)) for _ in range(3))
    some, none = _missing(draw, hidden[1]), torch.zeros(seen[1].shape[:2], dtype=torch.bool)
    for inputs in (whole, (*hidden, some), (*seen, none), _tokens(draw, 1)):
        wanted = solutions.cross_attention(*inputs)
        yours.compare(inputs, wanted)


def _tokens(draw: Random, m: int) -> tuple[Tensor, ...]:
    """Queries (b, n, d), and keys and values (b, m, d), of different sizes."""
    b, n, d = draw.randint(2, 3), draw.randint(2, 5), draw.randint(3, 6)
    return tuple(drawing.normal(draw, b, count, d) for count in (n, m, m))


def _missing(draw: Random, keys: Tensor) -> Tensor:
    """A mask (b, m) of missing tokens: at least one in each row, and never all."""
    b, m, _ = keys.shape
    missing = torch.zeros(b, m, dtype=torch.bool)
    for row in missing:
        gone = draw.sample(range(m), draw.randint(1, m - 1))
        row[gone] = True
    return missing
