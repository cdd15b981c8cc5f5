"""Spoken colour wishes ("i want the blue one"): short clips for the fusion experiment of Unit 7.1.

Each voice has one OGG file, in which every wish has a slot of two seconds.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from course_utils.prisma import speech
from course_utils.prisma.shop import COLOURS
from course_utils.settings import DATA, SEED

FOLDER = DATA / "samples" / "wishes"
FRAMES = ("i want the {} one", "is the {} one left", "the {} one please")
SECONDS = 2.0  # a slot
LEARN, TEST = 6, 3  # voices to learn from, and to test on


@dataclass(frozen=True)
class Wish:
    """One wish: its colour, the sound (float32, 16 kHz, two seconds) and whether it is for testing."""

    colour: str
    text: str
    voice: str
    test: bool
    audio: np.ndarray


def write(folder: Path = FOLDER, seed: int = SEED) -> None:
    """Speak all wishes with espeak-ng and write them; test voices are ones that prisma-whisper never heard."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    # Steps through the lists so that accents and variants differ from voice to voice.
    learn = [speech.VOICES_TRAIN[(i * 67 + 3) % len(speech.VOICES_TRAIN)] for i in range(LEARN)]
    test = [speech.VOICES_HELD_OUT[(i * 17 + 2) % len(speech.VOICES_HELD_OUT)] for i in range(TEST)]
    slot = int(SECONDS * speech.RATE)  # samples of each wish in a voice's track
    lines = []
    for number, voice in enumerate(learn + test):
        track = []
        for colour in COLOURS:
            for i, frame in enumerate(FRAMES):
                text = frame.format(colour)
                sound = speech.speak(text, voice, seed + 100 * number + i)[:slot]
                silence = slot - len(sound)
                track.append(np.pad(sound, (0, silence)))
        name = f"{number:02}.ogg"
        soundfile.write(folder / name, np.concatenate(track), speech.RATE, format="OGG", subtype="VORBIS")
        row = {"file": name, "voice": voice, "test": number >= LEARN}
        lines.append(json.dumps(row))
    (folder / "wishes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def load(folder: Path = FOLDER) -> list[Wish]:
    """All wishes, voice by voice, colour by colour."""
    import soundfile

    wishes: list[Wish] = []
    slot = int(SECONDS * speech.RATE)  # samples of each wish in a voice's track
    rows = (folder / "wishes.jsonl").read_text(encoding="utf-8")
    for line in rows.splitlines():
        row = json.loads(line)
        track, _ = soundfile.read(folder / row["file"], dtype="float32")
        for i, (colour, frame) in enumerate(product(COLOURS, FRAMES)):
            start = i * slot
            audio = track[start : start + slot]
            wishes.append(Wish(colour, frame.format(colour), row["voice"], row["test"], audio))
    return wishes
