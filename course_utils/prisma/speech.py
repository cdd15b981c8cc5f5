"""Customers' spoken requests: sentences, voices, rooms and noise, and the clips that are shipped.

Sound is a float32 array at 16 kHz, mono, between -1 and 1. Fresh speech needs the program espeak-ng;
the shipped clips in `data/samples/speech` do not.
"""

import functools
import io
import json
import random
import re
import shutil
import subprocess
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cross
from pathlib import Path

import numpy as np

from course_utils.measures import Measure, bootstrap_sums
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES
from course_utils.settings import DATA

RATE = 16_000
LONGEST = 5.0  # seconds that prisma-whisper hears at once
CLIPS = DATA / "samples" / "speech"
FIRST_CLIP = 2_000_000  # the seed of the first shipped clip

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# {p}: a product, {q}: a quantity with products, {n}: the four digits of an order number.
PATTERNS_TRAIN = (
    "show me the {p}", "show me {q}", "i want the {p}", "i want to buy {q}", "i would like a {p}",
    "i would like {q}", "i need a {p}", "can i see the {p}", "can i buy {q}", "do you have a {p}",
    "is there a {p} in stock", "are there {q} in stock", "do you have {q} left", "is the {p} in stock",
    "how much is the {p}", "how much does the {p} cost", "how much are {q}", "what is the price of a {p}",
    "how many {s} are left", "how many {s} do you have", "do you have any {s}", "are there any {s}",
    "find me a picture of the {p}", "can you find the {p}", "can you send me {q}", "send me the {p}",
    "where is my order {n}", "where is order number {n}", "what is the status of order {n}",
    "has order {n} come yet", "my order {n} has not come", "my order number is {n}", "cancel order {n}",
    "i want to return order {n}", "can you tell me where order {n} is", "tell me the price of {q}",
    "i would like to send back the {p}", "return the {p} of order {n}", "i need to see this {p}",
)  # fmt: skip
PATTERNS_HELD_OUT = (
    "can you show me the {p}", "i would like to see a {p}", "i need {q}", "send me a picture of the {p}",
    "how much do {q} cost", "what is the price of {q}", "do you have any {s} left", "is there any {p} left",
    "how many {s} are there in stock", "tell me the status of my order {n}", "can i return order {n}",
    "i need to cancel order {n}", "where is the {p} of my order {n}", "has my order number {n} come",
    "i want to send order {n} back",
)  # fmt: skip
OPENINGS = ("hello", "hello there", "please")
CLOSINGS = ("please", "thank you", "today")

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-us-nyc")
VARIANTS_TRAIN = (
    "f1", "f2", "f4", "f5", "m1", "m2", "m3", "m4", "m6", "m7", "m8", "Alex", "Andrea", "Andy", "Denis",
    "Diogo", "Gene", "Henrique", "Jacky", "Lee", "Marco", "Mario", "Mike", "adam", "anika", "antonio",
    "aunty", "belinda", "benjamin", "david", "ed", "edward", "grandma", "grandpa", "iven", "john",
    "klatt", "klatt2", "klatt4", "marcelo", "max", "miguel", "norbert", "paul", "pedro", "quincy", "rob",
    "sandro", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
VARIANTS_HELD_OUT = ("f3", "m5", "Alicia", "Annie", "Hugo", "Michael", "boris", "linda", "pablo", "robert")
VOICES_TRAIN = tuple(f"{a}+{v}" for a, v in cross(ACCENTS, VARIANTS_TRAIN))
VOICES_HELD_OUT = tuple(f"{a}+{v}" for a, v in cross(ACCENTS, VARIANTS_HELD_OUT))
# Two accents that no training voice has: reported beside the rest, a harder question than a new voice.
VOICES_NEW_ACCENT = tuple(f"{a}+{v}" for a, v in cross(("en-gb-x-gbclan", "en-029"), VARIANTS_HELD_OUT))


@dataclass(frozen=True)
class Clip:
    """One spoken request: what was said, by which espeak-ng voice, and the sound (float32, 16 kHz)."""

    text: str
    voice: str
    audio: np.ndarray


def _product(rng: random.Random, plural: str = "") -> str:
    words = []
    # Everything is drawn whether it is said or not, so that a seed gives the same sentence as ever.
    size = rng.choice(SIZES)
    if rng.random() < 0.6:
        words.append(size)
    colour = rng.choice(COLOURS)
    if rng.random() < 0.9:
        words.append(colour)
    shape = rng.choice(SHAPES)
    words.append(shape + plural)
    return " ".join(words)


def _quantity(rng: random.Random) -> str:
    many = rng.randint(1, 9)
    plural = "s" if many > 1 else ""
    return f"{DIGITS[many]} {_product(rng, plural)}"


def fill(pattern: str, rng: random.Random) -> str:
    """The sentence that `pattern` becomes once its slots are drawn from the shop's words."""
    digits = [rng.choice(DIGITS) for _ in range(4)]
    number = " ".join(digits)
    product = _product(rng)
    products = _product(rng, "s")
    quantity = _quantity(rng)
    return pattern.format(p=product, s=products, q=quantity, n=number)


def request(rng: random.Random, held_out: bool = False) -> str:
    """Draw what a customer says, in lower-case words; held-out patterns are never used in training."""
    patterns = PATTERNS_HELD_OUT if held_out else PATTERNS_TRAIN
    pattern = rng.choice(patterns)
    sentence = fill(pattern, rng)
    if len(sentence.split()) >= 10:
        return sentence
    if rng.random() < 0.15:
        sentence = f"{rng.choice(OPENINGS)} {sentence}"
    if rng.random() < 0.25:
        sentence = f"{sentence} {rng.choice(CLOSINGS)}"
    return sentence


def vocabulary() -> tuple[str, ...]:
    """All words of the training sentences, in alphabetical order."""
    frames = " ".join([*PATTERNS_TRAIN, *OPENINGS, *CLOSINGS])
    words = {word for word in frames.split() if "{" not in word}
    plurals = [shape + "s" for shape in SHAPES]
    words.update(COLOURS, SIZES, DIGITS, SHAPES, plurals)
    return tuple(sorted(words))


def drill(rng: random.Random) -> str:
    """Words in any order, or a request with words lost, doubled and exchanged.

    With requests alone the model learns their grammar by heart and hears what it expects: its word error
    rate was 4 % on sentences of a trained pattern and 27 % on others, in the very same voices.
    """
    if rng.random() < 0.4:
        count = rng.randint(2, 8)
        return " ".join(rng.choices(vocabulary(), k=count))
    words = request(rng).split()
    for _ in range(rng.randint(1, 4)):
        words = _with_a_change(words, rng)
    start = rng.randrange(len(words)) if rng.random() < 0.5 else 0
    turned = words[start:] + words[:start]
    sentence = " ".join(turned[:11])
    return drill(rng) if is_held_out(sentence) else sentence


def _with_a_change(words: list[str], rng: random.Random) -> list[str]:
    """The sentence with a word taken out, exchanged, or put before or behind another."""
    place = rng.randrange(len(words))
    before, there, after = words[:place], words[place], words[place + 1 :]
    word = rng.choice(vocabulary())
    instead = rng.choice(([], [word], [word], [there, word], [word, there]))
    return before + instead + after or [word]


@functools.cache
def _held_out() -> re.Pattern:
    product = r"[a-z]+( [a-z]+){0,2}"
    number = f"({'|'.join(DIGITS)})"
    slots = {"p": product, "s": product, "q": f"{number} {product}", "n": f"{number}( {number}){{3}}"}
    forms = [pattern.format(**slots) for pattern in PATTERNS_HELD_OUT]
    return re.compile("|".join(forms))


def is_held_out(sentence: str) -> bool:
    """Whether a sentence holds a held-out pattern, whatever stands in its slots."""
    return _held_out().search(sentence) is not None


def has_espeak() -> bool:
    """Whether fresh speech can be made on this machine."""
    return shutil.which("espeak-ng") is not None


def speak(text: str, voice: str, seed: int) -> np.ndarray:
    """Synthesise `text` in an espeak-ng `voice`; speed and pitch follow from `seed`. Float32, 16 kHz.

    Raises RuntimeError with a cure if espeak-ng is missing, ValueError if it says nothing.
    """
    if not has_espeak():
        raise RuntimeError(
            "Fresh speech needs the program espeak-ng, which is not installed. Install it (Debian, Ubuntu, "
            "Colab: `apt-get install espeak-ng`; macOS: `brew install espeak-ng`; Windows: the installer "
            "of the espeak-ng project), or use the shipped clips: `load_clips()`."
        )
    rng = random.Random(seed)
    speed = rng.randint(140, 205)
    pitch = rng.randint(20, 80)
    gap = rng.choice((0, 0, 1, 2))
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-g", str(gap), "--stdout", text]
    spoken = subprocess.run(command, capture_output=True, check=True)
    samples, rate = _read_wave(spoken.stdout)
    if not len(samples) or not np.abs(samples).max():
        raise ValueError(f"espeak-ng said nothing for {text!r} in the voice {voice!r}")
    sound = resample(samples, rate)
    return level(trim(sound))


def _read_wave(data: bytes) -> tuple[np.ndarray, int]:
    """The samples of a WAV file with 16 bits each, in -1..1, and their rate."""
    with wave.open(io.BytesIO(data)) as sound:
        rate = sound.getframerate()
        frames = sound.readframes(sound.getnframes())
    numbers = np.frombuffer(frames, np.int16)
    return numbers.astype(np.float32) / 32768, rate


def resample(audio: np.ndarray, rate: int) -> np.ndarray:
    """Change the sampling rate to 16 kHz by cutting (or padding) its spectrum.

    The sound is padded to a whole number of 1/50 s, so that both lengths have small factors.
    """
    blocks = -(-len(audio) * 50 // rate)
    before = blocks * rate // 50
    after = blocks * RATE // 50
    spectrum = np.fft.rfft(audio, before)
    kept = spectrum[: after // 2 + 1]
    sound = np.fft.irfft(kept, after).astype(np.float32)
    return sound * (RATE / rate)


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Play a tape `factor` times as fast: shorter, and higher in pitch and in all formants."""
    places = np.arange(0, len(audio) - 1, factor)
    known = np.arange(len(audio))
    return np.interp(places, known, audio).astype(np.float32)


def trim(audio: np.ndarray, floor: float = 0.01) -> np.ndarray:
    """Cut the silence off both ends, all below `floor` of the peak, and keep 30 ms around the speech."""
    loudness = np.abs(audio)
    loud = np.flatnonzero(loudness > floor * loudness.max())
    start = max(loud[0] - 480, 0)
    return audio[start : loud[-1] + 480]


def level(audio: np.ndarray, rms: float = 0.08) -> np.ndarray:
    """Bring the sound to a root mean square of `rms`, or less where peaks would pass 1."""
    gain = rms / np.sqrt(np.mean(audio**2))
    most = 0.99 / np.abs(audio).max()
    louder = audio * min(gain, most)
    return louder.astype(np.float32)


def utterance(seed: int, voices: Sequence[str], held_out: bool = False, drills: float = 0.0) -> Clip:
    """Draw text and voice from `seed` and speak it; drawn again while it is longer than the window.

    `drills` is the share of word drills among the sentences.
    """
    rng = random.Random(seed)
    while True:
        text = drill(rng) if rng.random() < drills else request(rng, held_out)
        voice = rng.choice(voices)
        way_of_speaking = rng.randrange(2**31)
        audio = speak(text, voice, way_of_speaking)
        if len(audio) <= LONGEST * RATE:
            return Clip(text, voice, audio)


def noise(kind: str, length: int, rng: np.random.Generator, talk: Sequence[np.ndarray] = ()) -> np.ndarray:
    """`length` samples of "white", "pink" or "babble" noise; babble is five sounds of `talk` at once."""
    if kind == "babble":
        return _babble(length, rng, talk)
    if kind not in ("white", "pink"):
        raise ValueError(f'no noise called {kind!r}; there are "white", "pink" and "babble"')
    size = 1 << length.bit_length()
    sound = rng.standard_normal(size)
    if kind == "pink":  # power falls with frequency
        spectrum = np.fft.rfft(sound)
        frequency = np.arange(size // 2 + 1) + 1.0
        sound = np.fft.irfft(spectrum / np.sqrt(frequency), size)
    return sound[:length]


def _babble(length: int, rng: np.random.Generator, talk: Sequence[np.ndarray]) -> np.ndarray:
    """Five sounds of `talk` at once, each from a random place on, repeated where it is too short."""
    voices = []
    for i in rng.integers(len(talk), size=5):
        turned = np.roll(talk[i], rng.integers(RATE))
        voices.append(np.resize(turned, length))
    return np.sum(voices, axis=0)


def add_noise(
    audio: np.ndarray, snr_db: float, rng: np.random.Generator, kind: str = "pink", talk: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Add noise so that the signal has `snr_db` decibels more power than the noise, both over all samples."""
    hiss = noise(kind, len(audio), rng, talk)
    ratio = 10 ** (snr_db / 10)
    wanted = np.mean(audio**2) / ratio
    there = np.mean(hiss**2)
    noisy = audio + hiss * np.sqrt(wanted / there)
    return noisy.astype(np.float32)


def add_room(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play the sound in a room: direct sound, then a noise-like tail that dies away in 0.1 to 0.5 s."""
    decay = rng.uniform(0.1, 0.5)  # seconds until the tail is 60 dB down
    time = np.arange(int(decay * RATE)) / RATE
    tail = rng.standard_normal(len(time))
    tail = tail * 10 ** (-3 * time / decay)
    tail *= rng.uniform(0.2, 0.8) / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0  # the direct sound
    # A product of spectra is a convolution, provided that there is room for the end of the tail.
    size = 1 << (len(audio) + len(tail)).bit_length()
    spectrum = np.fft.rfft(audio, size) * np.fft.rfft(tail, size)
    wet = np.fft.irfft(spectrum, size)[: len(audio)]
    return level(wet.astype(np.float32))


def clip_peaks(audio: np.ndarray, share: float) -> np.ndarray:
    """Cut every peak above `share` of the highest one, as a microphone set too loud does."""
    limit = share * np.abs(audio).max()
    return np.clip(audio, -limit, limit)


def write_clips(folder: Path = CLIPS, count: int = 60, seed: int = FIRST_CLIP) -> None:
    """Write the shipped clips: held-out voices saying held-out sentences, as OGG Vorbis with a JSONL."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        clip = utterance(seed + i, VOICES_HELD_OUT, held_out=True)
        file = f"{i:02}.ogg"
        soundfile.write(folder / file, clip.audio, RATE, format="OGG", subtype="VORBIS")
        row = {"file": file, "text": clip.text, "voice": clip.voice}
        lines.append(json.dumps(row))
    text = "\n".join(lines) + "\n"
    (folder / "clips.jsonl").write_text(text, encoding="utf-8", newline="\n")


def load_clips(folder: Path = CLIPS) -> list[Clip]:
    """The shipped clips: voices and sentence patterns that prisma-whisper never heard."""
    import soundfile

    text = (folder / "clips.jsonl").read_text(encoding="utf-8")
    clips = []
    for line in text.splitlines():
        row = json.loads(line)
        audio, _ = soundfile.read(folder / row["file"], dtype="float32")
        clips.append(Clip(row["text"], row["voice"], audio))
    return clips


def word_errors(reference: str, hypothesis: str) -> int:
    """Fewest words to put in, take out or swap to turn `hypothesis` into `reference` (edit distance)."""
    wanted, heard = reference.split(), hypothesis.split()
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        before, row = row, [i]
        for j, other in enumerate(heard, 1):
            missing = before[j] + 1
            too_many = row[-1] + 1
            swapped = before[j - 1] + (word != other)
            row.append(min(missing, too_many, swapped))
    return row[-1]


def word_error_rate(reference: str | Sequence[str], hypothesis: str | Sequence[str]) -> float:
    """Word errors over words said, for one text or over many together; can be above 1."""
    if isinstance(reference, str):
        reference, hypothesis = [reference], [hypothesis]
    errors = 0
    words = 0
    for said, heard in zip(reference, hypothesis, strict=True):
        errors += word_errors(said, heard)
        words += len(said.split())
    return errors / words


def measured_word_errors(said: Sequence[str], heard: Sequence[str], seed: int = 0, rounds: int = 1000) -> Measure:
    """`word_error_rate` of many texts, with the 95 % interval of a bootstrap over texts."""
    cases = []
    for reference, hypothesis in zip(said, heard, strict=True):
        cases.append((word_errors(reference, hypothesis), len(reference.split())))
    return bootstrap_sums(cases, lambda sums: sums[0] / sums[1], "%", seed, rounds)
