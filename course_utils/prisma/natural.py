"""Natural voices: requests, sayings and prompts for models that learned from people.

espeak-ng builds its sounds by rules, and a real Whisper hears them badly. Here a neural synthesiser speaks instead,
Kokoro-82M (Apache-2.0), and three people do, in the telephone prompts of Asterisk. The shipped sounds in
`data/samples/natural` need no package; making Kokoro's anew needs `kokoro-onnx` and its two files in `build/voices`.
"""

import functools
import importlib
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.models import bundled
from course_utils.prisma import languages, speech
from course_utils.settings import BUILD, DATA, SEED

FOLDER = DATA / "samples" / "natural"
WEIGHTS = BUILD / "voices"
MODEL, STYLES = WEIGHTS / "kokoro-v1.0.int8.onnx", WEIGHTS / "voices-v1.0.bin"
SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"  # of MODEL
CURE = (
    "Speaking with natural voices needs the package kokoro-onnx (`pip install kokoro-onnx`) and two files of its "
    f'release "model-files-v1.0", {MODEL.name} and {STYLES.name}, in {WEIGHTS}. '
    "Or use the shipped sounds: `load_clips()` and `load_sayings()`."
)

ENGLISH = ("af_bella", "af_sarah", "am_michael", "am_puck", "bf_emma", "bm_george")  # who asks for toys
# Who says the sentences in other languages. Kokoro has no German voice, and one French.
SPEAKERS = {
    "en": ("af_heart", "am_fenrir"),
    "fr": ("ff_siwis",),
    "es": ("ef_dora", "em_alex"),
    "it": ("if_sara", "im_nicola"),
}

# Prompts of Asterisk, recorded by people, and what they say in English.
PROMPTS = {
    "conf-onlyperson": "You are currently the only person in this conference.",
    "queue-thankyou": "Thank you for your patience.",
    "transfer": "Please hold while I try that extension.",
    "invalid": "I am sorry, that is not a valid extension. Please try again.",
    "vm-goodbye": "Goodbye.",
}
PEOPLE = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June", "es": "es_MX_f_Allison", "it": "it_IT_m_Carlo"}
ASTERISK = Path("/usr/share/asterisk/sounds")  # of Debian's packages asterisk-core-sounds-*-wav


@dataclass(frozen=True)
class Prompt:
    """What a person says on the telephone: the language, the speaker, the same in English, the sound (16 kHz)."""

    language: str
    speaker: str
    english: str
    audio: np.ndarray


@functools.cache
def synthesiser() -> Any:
    """Kokoro, ready to speak. RuntimeError with a cure where something is missing."""
    try:
        # No requirement of the course: whoever makes the sounds anew installs it, with an onnxruntime of its own.
        package = importlib.import_module("kokoro_onnx")
    except ImportError as error:
        raise RuntimeError(CURE) from error
    if not (MODEL.exists() and STYLES.exists()):
        raise RuntimeError(CURE)
    found = bundled.sha256(MODEL)
    if found != SHA256:
        raise RuntimeError(f"{MODEL} is not the file that the shipped sounds were made with. {CURE}")
    return package.Kokoro(str(MODEL), str(STYLES))


def speak(text: str, voice: str, seed: int, language: str = "en-us") -> np.ndarray:
    """`text` in one of Kokoro's voices, read as espeak-ng's `language`; the speed follows from `seed`.

    Float32, 16 kHz. It takes about a second of processor time for each second of speech.
    """
    speed = random.Random(seed).uniform(0.9, 1.2)
    spoken, rate = synthesiser().create(text, voice, speed=speed, lang=language)
    sound = speech.resample(spoken, rate)
    return speech.level(speech.trim(sound))


def _request(text: str, number: int) -> speech.Clip:
    """Request `number` of the shipped clips, by the next of the natural voices."""
    voice = ENGLISH[number % len(ENGLISH)]
    language = "en-gb" if voice.startswith("b") else "en-us"
    audio = speak(text, voice, speech.FIRST_CLIP + number, language)
    return speech.Clip(text, voice, audio)


def write_clips(folder: Path = FOLDER) -> None:
    """Speak the requests of the shipped clips once more, with natural voices: one file a voice."""
    texts = [clip.text for clip in speech.load_clips()]
    clips = [_request(text, number) for number, text in enumerate(texts)]
    rows = []
    for voice in ENGLISH:
        own = [clip for clip in clips if clip.voice == voice]
        rows.append({"voice": voice, "texts": [clip.text for clip in own]} | _track(folder, voice, own))
    _write_rows(folder / "clips.jsonl", rows)


def write_sayings(folder: Path = FOLDER, seed: int = SEED) -> None:
    """Speak the sentences of `languages` in four of its languages, the voices of each in turns: one file a voice."""
    rows = []
    for language, speakers in SPEAKERS.items():
        for turn, voice in enumerate(speakers):
            numbers = range(turn, len(languages.SENTENCES[language]), len(speakers))
            sayings = [_saying(language, number, voice, seed) for number in numbers]
            row = {"language": language, "voice": voice, "numbers": list(numbers)}
            rows.append(row | _track(folder, f"{language}-{voice}", sayings))
    _write_rows(folder / "sayings.jsonl", rows)


def _saying(language: str, number: int, voice: str, seed: int) -> languages.Saying:
    text = languages.SENTENCES[language][number]
    english = languages.SENTENCES["en"][number]
    audio = speak(text, voice, seed + number, languages.VOICES[language])
    return languages.Saying(language, number, text, english, True, audio)


def write_prompts(source: Path = ASTERISK, folder: Path = FOLDER) -> None:
    """Copy the prompts that people recorded, at our rate: one file a person. `source` has a folder for each of them."""
    rows = []
    for language, speaker in PEOPLE.items():
        prompts = [_prompt(source, language, speaker, name) for name in PROMPTS]
        row = {"language": language, "speaker": speaker, "prompts": list(PROMPTS)}
        rows.append(row | _track(folder, speaker, prompts))
    _write_rows(folder / "prompts.jsonl", rows)


def _prompt(source: Path, language: str, speaker: str, name: str) -> Prompt:
    import soundfile

    recorded, rate = soundfile.read(source / speaker / f"{name}.wav", dtype="float32")
    sound = speech.resample(recorded, rate)
    audio = speech.level(speech.trim(sound))
    return Prompt(language, speaker, PROMPTS[name], audio)


def _track(folder: Path, name: str, spoken: Sequence[speech.Clip | languages.Saying | Prompt]) -> dict[str, Any]:
    """Write the sounds, one after the other, as OGG Opus; returns the file's name and where each sound is over."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    file = f"{name}.ogg"
    sounds = [one.audio for one in spoken]
    track = np.concatenate(sounds)
    # About 2.4 kB a second: a real Whisper hears no worse than in the sounds as they were made.
    soundfile.write(folder / file, track, speech.RATE, format="OGG", subtype="OPUS", compression_level=0.95)
    lengths = [len(sound) for sound in sounds]
    return {"file": file, "ends": np.cumsum(lengths).tolist()}


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _read_rows(path: Path) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
    """Each row of the file, and the sounds of its track."""
    import soundfile

    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        track, _ = soundfile.read(path.parent / row["file"], dtype="float32")
        found.append((row, np.split(track, row["ends"][:-1])))
    return found


def load_clips(folder: Path = FOLDER) -> list[speech.Clip]:
    """The shipped requests in natural voices, in the order of `speech.load_clips`, with the same words."""
    by_voice = []
    for row, sounds in _read_rows(folder / "clips.jsonl"):
        spoken = zip(row["texts"], sounds, strict=True)
        by_voice.append([speech.Clip(text, row["voice"], audio) for text, audio in spoken])
    turns = zip(*by_voice, strict=True)
    return list(itertools.chain.from_iterable(turns))


def load_sayings(folder: Path = FOLDER) -> list[languages.Saying]:
    """The shipped sentences in English, French, Spanish and Italian, each once, voice by voice."""
    return languages.load(folder, "sayings.jsonl")


def load_prompts(folder: Path = FOLDER) -> list[Prompt]:
    """The shipped recordings of people: five telephone prompts in English, French, Spanish and Italian."""
    prompts: list[Prompt] = []
    for row, sounds in _read_rows(folder / "prompts.jsonl"):
        for name, audio in zip(row["prompts"], sounds, strict=True):
            prompts.append(Prompt(row["language"], row["speaker"], PROMPTS[name], audio))
    return prompts
