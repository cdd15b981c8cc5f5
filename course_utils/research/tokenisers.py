"""Tokenisers by hand: byte-pair encoding trained and applied, words that are unknown, real vocabularies (Unit 7.3).

`train` learns the same merges, in the same order, as the library `tokenizers`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise

Pair = tuple[str, str]
# A word with the space before it, a number, other signs, or white space: what byte-pair encoding never merges across.
PIECES = r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+"
UNKNOWN = "<unknown>"


def pieces(text: str) -> list[str]:
    """`text` cut by PIECES; nothing is lost."""
    return re.findall(PIECES, text)


# ---------------------------------------------------------------- byte-pair encoding


def count_pairs(words: dict[tuple[str, ...], int]) -> Counter[Pair]:
    """How often each pair of neighbours occurs, over words (as symbols) with their counts."""
    pairs: Counter[Pair] = Counter()
    for symbols, count in words.items():
        for pair in pairwise(symbols):
            pairs[pair] += count
    return pairs


def merge(symbols: Sequence[str], pair: Pair) -> tuple[str, ...]:
    """`symbols` with every occurrence of `pair` joined, from left to right."""
    joined: list[str] = []
    at = 0
    while at < len(symbols):
        if tuple(symbols[at : at + 2]) == pair:
            joined.append(pair[0] + pair[1])
            at += 2
        else:
            joined.append(symbols[at])
            at += 1
    return tuple(joined)


def train(counts: dict[str, int], merges: int) -> list[Pair]:
    """Learn `merges` merges from words with their counts (byte-pair encoding, arXiv 1508.07909).

    Of pairs that are equally frequent the one wins whose symbols are older: first the left one,
    then the right one. Characters are older than all merges, and are sorted. Ends early when no
    pair is left.
    """
    words = {tuple(word): count for word, count in counts.items()}
    letters = sorted(set("".join(counts)))
    age = {letter: number for number, letter in enumerate(letters)}
    learned: list[Pair] = []

    def rank(pair: Pair) -> tuple[int, int, int]:
        """The smallest comes first: the most frequent pair, then the older symbols."""
        return -pairs[pair], age[pair[0]], age[pair[1]]

    for _ in range(merges):
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=rank)
        words = {merge(symbols, best): count for symbols, count in words.items()}
        age.setdefault(best[0] + best[1], len(age))
        learned.append(best)
    return learned


def encode(word: str, ranks: dict[Pair, int]) -> tuple[str, ...]:
    """The symbols of a word: again and again the pair is joined that was learned first. `ranks`
    numbers the merges.
    """
    symbols = tuple(word)
    while True:
        known = [pair for pair in pairwise(symbols) if pair in ranks]
        if not known:
            return symbols
        first = min(known, key=ranks.__getitem__)
        symbols = merge(symbols, first)


def numbered(merges: Sequence[Pair]) -> dict[Pair, int]:
    """The merges with their places, as `encode` wants them."""
    return {pair: place for place, pair in enumerate(merges)}


def library_bpe(texts: Iterable[str], vocabulary: int):
    """A `tokenizers.Tokenizer`: BPE of at most `vocabulary` symbols, learned from texts that are cut by PIECES."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def library_merges(tokenizer) -> list[Pair]:
    """The merges that a `tokenizers` BPE has learned, in order."""
    model = json.loads(tokenizer.to_str())["model"]
    return [(left, right) for left, right in model["merges"]]


# ---------------------------------------------------------------- bytes


@cache
def byte_letters() -> dict[int, str]:
    """A visible character for each of the 256 bytes, as GPT-2 has it: itself where it is visible, else from 256 on."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}  # ! to ~, ¡ to ¬, ® to ÿ
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return letters


def as_bytes(text: str) -> str:
    """`text` as its UTF-8 bytes, one visible character for each."""
    letters = byte_letters()
    return "".join(letters[byte] for byte in text.encode())


# ---------------------------------------------------------------- words


def word_vocabulary(counts: dict[str, int], size: int) -> set[str]:
    """The `size` most frequent words; of equally frequent ones, the first in the alphabet."""
    order = sorted(counts, key=lambda word: (-counts[word], word))
    return set(order[:size])


def word_tokens(words: Iterable[str], vocabulary: set[str]) -> list[str]:
    """The words, those that are not in the vocabulary as UNKNOWN."""
    return [word if word in vocabulary else UNKNOWN for word in words]


# ---------------------------------------------------------------- texts to learn from


def manual() -> list[str]:
    """English prose that lies beside every Python: the chapters of its language reference, in order of their names.

    Line breaks and indents are single spaces here.
    """
    from pydoc_data.topics import topics

    return [" ".join(topics[name].split()) for name in sorted(topics)]


# The Universal Declaration of Human Rights (United Nations, 1948), articles 1, 3, 4, 5, 6 and 9.
RIGHTS = {
    "English": (
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
        "conscience and should act towards one another in a spirit of brotherhood.",
        "Everyone has the right to life, liberty and security of person.",
        "No one shall be held in slavery or servitude; slavery and the slave trade shall be prohibited in all "
        "their forms.",
        "No one shall be subjected to torture or to cruel, inhuman or degrading treatment or punishment.",
        "Everyone has the right to recognition everywhere as a person before the law.",
        "No one shall be subjected to arbitrary arrest, detention or exile.",
    ),
    "German": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen "
        "begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
        "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
        "Niemand darf in Sklaverei oder Leibeigenschaft gehalten werden; Sklaverei und Sklavenhandel in allen "
        "ihren Formen sind verboten.",
        "Niemand darf der Folter oder grausamer, unmenschlicher oder erniedrigender Behandlung oder Strafe "
        "unterworfen werden.",
        "Jeder hat das Recht, überall als rechtsfähig anerkannt zu werden.",
        "Niemand darf willkürlich festgenommen, in Haft gehalten oder des Landes verwiesen werden.",
    ),
    "Hindi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और "
        "अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
        "प्रत्येक व्यक्ति को जीवन, स्वाधीनता और वैयक्तिक सुरक्षा का अधिकार है।",
        "कोई भी ग़ुलामी या दासता की हालत में न रखा जाएगा, ग़ुलामी-प्रथा और ग़ुलामों का व्यापार अपने सभी रूपों में निषिद्ध होगा।",
        "किसी को भी शारीरिक यातना न दी जाएगी और न किसी के भी प्रति निर्दय, अमानुषिक या अपमानजनक व्यवहार होगा।",
        "हर किसी को हर जगह क़ानून की निगाह में व्यक्ति के रूप में स्वीकृति-प्राप्ति का अधिकार है।",
        "किसी को भी मनमाने ढंग से गिरफ़्तार, नज़रबन्द या देश-निष्कासित न किया जाएगा।",
    ),
    "Chinese": (
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
        "人人有权享有生命、自由和人身安全。",
        "任何人不得使为奴隶或奴役；一切形式的奴隶制度和奴隶买卖，均应予以禁止。",
        "任何人不得加以酷刑，或施以残忍的、不人道的或侮辱性的待遇或刑罚。",
        "人人在任何地方有权被承认在法律前的人格。",
        "任何人不得加以任意逮捕、拘禁或放逐。",
    ),
}


# ---------------------------------------------------------------- vocabularies of real models


def gpt2():
    """GPT-2's tokeniser: 50,257 tokens, learned from English web pages. Its ranks lie in openai-whisper."""
    return _from_whisper("gpt2")


def whisper_multilingual():
    """Whisper's multilingual tokeniser: GPT-2's procedure, learned anew from speech transcripts of many languages."""
    return _from_whisper("multilingual")


def _from_whisper(name: str):
    from whisper import tokenizer

    return tokenizer.get_encoding(name)


@cache
def clip():
    """CLIP's tokeniser: it writes everything in small letters first. Its merges lie in open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def counters(prisma) -> dict[str, Callable[[str], int]]:
    """For four real tokenisers, how many tokens they make of a text; `prisma` is prisma-lm's."""
    english, many, pictures = gpt2(), whisper_multilingual(), clip()
    return {
        "GPT-2": lambda text: len(english.encode(text)),
        "Whisper, multilingual": lambda text: len(many.encode(text)),
        "CLIP": lambda text: len(pictures.encode(text)),
        "prisma-lm": lambda text: len(prisma(text)["input_ids"]),
    }
