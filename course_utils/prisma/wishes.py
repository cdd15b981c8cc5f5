"""Spoken colour wishes ("i want the blue one"): short clips for the fusion experiment of Unit 7.1.

Each voice has one OGG file, in which every wish has a slot of two seconds.
"""

import json
from dataclasses import dataclass
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
    slot, lines = int(SECONDS * speech.RATE), []
    for number, voice in enumerate(learn + test):
        track = []
        for colour in COLOURS:
            for i, frame in enumerate(FRAMES):
                sound = speech.speak(frame.format(colour), voice, seed + 100 * number + i)[:slot]
                track.append(np.pad(sound, (0, slot - len(sound))))
        name = f"{number:02}.ogg"
        soundfile.write(folder / name, np.concatenate(track), speech.RATE, format="OGG", subtype="VORBIS")
        lines.append(json.dumps({"file": name, "voice": voice, "test": number >= LEARN}))
    (folder / "wishes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def load(folder: Path = FOLDER) -> list[Wish]:
    """All wishes, voice by voice, colour by colour."""
    import soundfile

    found, slot = [], int(SECONDS * speech.RATE)
    for line in (folder / "wishes.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        track, _ = soundfile.read(folder / row["file"], dtype="float32")
        texts = [(colour, frame.format(colour)) for colour in COLOURS for frame in FRAMES]
        for i, (colour, text) in enumerate(texts):
            found.append(Wish(colour, text, row["voice"], row["test"], track[i * slot : (i + 1) * slot]))
    return found
