"""Words that were said and heard, compared, and the toys that they name."""

import functools
import random
import re
from collections.abc import Sequence

from whisper.normalizers import EnglishTextNormalizer

from course_utils.measures import Measure
from course_utils.models.inputs import as_texts
from course_utils.multimodal.fusion import CLASSES
from course_utils.prisma import pictures, speech
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES


def plain_words(text: str) -> str:
    """The words that two transcripts are compared by: lower case, digits spelt one by one, no punctuation, no fillers.

    openai-whisper's own normaliser (arXiv 2212.04356, appendix C) writes out contractions and evens out spellings, so
    that "I'd like 2, um, grey cubes." and "i would like two gray cubes" are the same.
    """
    spelt = _spelt(text)  # before it as well: it would take "0120" for 120
    normal = _normaliser()(spelt)
    words = _spelt(normal).split()
    return " ".join(words)


@functools.cache
def _normaliser() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


def _spelt(text: str) -> str:
    """The text with a word for each digit."""
    return re.sub(r"\d", lambda digit: f" {speech.DIGITS[int(digit.group())]} ", text)


def word_error(said: Sequence[str], heard: Sequence[str], seed: int = 0) -> Measure:
    """Word error rate over all sentences, with a bootstrap interval over sentences (1,000 draws)."""
    said = as_texts(said, "sentences")
    heard = as_texts(heard, "sentences")
    if len(said) != len(heard) or not said:
        raise ValueError(f"{len(said)} sentences said, {len(heard)} heard: one transcript each is needed")
    plain_said = [plain_words(text) for text in said]
    plain_heard = [plain_words(text) for text in heard]
    return speech.measured_word_errors(plain_said, plain_heard, seed)


def wanted(text: str) -> tuple[str, str] | None:
    """Colour and shape that a request names, or None if it names no single product."""
    words = text.split()
    singular = [word.removesuffix("s") for word in words]
    colours = [word for word in words if word in COLOURS]
    shapes = [word for word in singular if word in SHAPES]
    if len(colours) != 1 or len(shapes) != 1:
        return None
    return colours[0], shapes[0]


def shelf(size: int, seed: int) -> list:
    """One picture of each of the 64 products of CLASSES, `size` pixels wide, sizes of toys mixed."""
    rng = random.Random(seed)
    scenes = [pictures.scene_of(pair, size=rng.choice(SIZES)) for pair in CLASSES]
    return pictures.draw_many(scenes, seed, size)
