"""The reader's own voice and pictures: recorded or chosen in the browser, or read from files.

A recorder that nobody uses gives a shipped sound, and says so: no cell waits for a person. Sounds and pictures go
from the browser into the kernel's memory; nothing is written to a file or sent elsewhere.
"""

import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import colab, figures
from course_utils.prisma import speech
from course_utils.settings import DATA

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SHORTEST, LONGEST = 0.2, 30.0  # seconds; Whisper's window is 30
SILENCE = 1e-3  # a peak below this (-60 dB of full scale) is no speech
LOUD = 0.99  # of full scale; samples at or above it were cut by the microphone
MOST_CLIPPED = 0.005  # share of cut samples from which words suffer
SIDE = 1024  # pixels; CLIP looks at no more than 224
MOST_PIXELS = 80_000_000  # a file may claim any size, and unpacking it takes 3 bytes a pixel
MOST_PICTURES = 64


class MediaError(ValueError):
    """A sound or picture that cannot be used. The message says why, and what to do."""


@dataclass
class Inbox:
    """What the reader has recorded or chosen, newest last: names and contents, in the kernel's memory only."""

    kind: str  # "sound" or "pictures"
    received: list[tuple[str, bytes]] = field(default_factory=list)

    def take(self, _: Any, content: dict, buffers: list) -> None:
        """Called with each message from the browser: a dictionary with a name, and one buffer."""
        self.received.append((str(content.get("name", ""))[:80], bytes(buffers[0])))


@dataclass(frozen=True)
class Sound:
    """A sound (float32, 16 kHz, mono), where it comes from, and what is said in it if that is known."""

    audio: "np.ndarray"
    origin: str
    text: str | None = None


# ---------------------------------------------------------------- asking


def microphone(seconds: int = 4) -> Inbox:
    """Show a button that records `seconds` of sound, and a field to choose a sound file."""
    return _ask("sound", "a recording, or a sound file of your choice", seconds)


def picture_field() -> Inbox:
    """Show a field to choose pictures. They arrive shrunk to 1,024 pixels, without place and camera."""
    return _ask("pictures", "the pictures that you choose")


def _ask(kind: str, what: str, seconds: int = 0) -> Inbox:
    inbox = Inbox(kind)
    if reason := _nobody():
        print(f"No buttons here: {reason}. The next cell goes on with what the course ships, or with a file's path.")
        return inbox
    from IPython.display import display

    # Shown before it can be used: what is taken, and where it goes.
    print(f"Only when you ask for it, this takes {what} into the memory of the notebook's kernel,")
    print(f"{_where()}. No file is written. What later cells show is saved with the notebook: clear it to share it.")
    recorder = _recorder()(kind=kind, seconds=seconds, longest=LONGEST)
    recorder.on_msg(inbox.take)
    display(recorder)
    return inbox


def _where() -> str:
    return "a computer of Google's (Colab)" if "google.colab" in sys.modules else "the computer on which Jupyter runs"


def _nobody() -> str:
    """Why there is no point in showing buttons; empty if somebody may press them."""
    if os.environ.get("COURSE_QUIET") == "1":
        return "the notebook runs without a reader"
    if not figures.in_notebook():
        return "this is no notebook"
    if importlib.util.find_spec("anywidget") is None:
        return f"they need the package anywidget (`{colab.how_to_add('anywidget')}`, then restart the kernel)"
    return ""


@cache
def _recorder() -> type:
    """The widget's class, made when it is needed: importing anywidget takes a while."""
    import anywidget
    import traitlets

    class Recorder(anywidget.AnyWidget):
        _esm = Path(__file__).with_name("media.js").read_text("utf-8")
        kind = traitlets.Unicode().tag(sync=True)
        seconds = traitlets.Int().tag(sync=True)
        longest = traitlets.Float().tag(sync=True)

    return Recorder


# ---------------------------------------------------------------- sounds


def sound(source: Inbox | str | Path) -> Sound:
    """The newest recording or chosen file of `source`, or the sound file at this path; always checked.

    An empty inbox gives a shipped wish, aloud. MediaError for what is no usable sound.
    """
    import numpy as np

    if not isinstance(source, Inbox):
        return Sound(_usable(*_read(Path(source))), Path(source).name)
    _fits(source, "sound")
    if source.received:
        name, content = source.received[-1]
        return Sound(_usable(np.frombuffer(content, np.float32), speech.RATE), name)
    from course_utils.prisma import wishes

    wish = next(wish for wish in wishes.load() if wish.test)
    print("Nothing was recorded or chosen. Used instead: a wish that espeak-ng spoke for the course.")
    print('To use your own voice, press "Record" above, then run this cell again; or write sound("path/to/file.wav").')
    return Sound(speech.trim(wish.audio, floor=0.03), "shipped wish", wish.text)


def _fits(inbox: Inbox, kind: str) -> None:
    if inbox.kind != kind:
        field = "microphone()" if kind == "sound" else "picture_field()"
        raise MediaError(f"This is a field for {inbox.kind}, and {kind} is wanted: give what media.{field} returned.")


def _read(path: Path) -> tuple["np.ndarray", int]:
    """Mono samples and their rate. Files are measured before they are read."""
    import soundfile

    if not path.is_file():
        raise MediaError(f"There is no file {path}. Put it beside the notebook, or give its whole path.")
    try:
        info = soundfile.info(path)
        _check_length(info.frames / info.samplerate)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise MediaError(
            f"{path.name} is no sound that can be read here. WAV, FLAC, OGG and MP3 can. "
            "Choose an M4A or WebM file with the field above instead: the browser reads it."
        ) from error
    return samples.mean(1), rate


def _check_length(seconds: float) -> None:
    if seconds < SHORTEST:
        raise MediaError(f"The sound is empty or too short ({seconds:.2f} s): record at least a word.")
    if seconds > LONGEST:
        raise MediaError(f"The sound is {seconds:.0f} s long. At most {LONGEST:.0f} s are taken: cut it first.")


def _usable(samples: "np.ndarray", rate: int) -> "np.ndarray":
    """The sound at 16 kHz and an even loudness, if it is one; MediaError otherwise. Clipping is only told."""
    import numpy as np

    _check_length(len(samples) / rate)
    peak = np.abs(samples).max()
    if not np.isfinite(peak):
        raise MediaError("The sound holds numbers that are not finite: the file is damaged. Save it again.")
    if peak < SILENCE:
        raise MediaError("The sound is silent. Is the microphone muted, or is another one chosen in the browser?")
    if (clipped := np.mean(np.abs(samples) >= LOUD)) > MOST_CLIPPED:
        print(f"{clipped:.1%} of the sound is cut off at full volume, so words may be lost. Record it again, softer.")
    samples = np.asarray(samples, np.float32)
    # Microphones differ by 40 dB; Whisper's front end scales by the loudest moment only.
    return speech.level(samples if rate == speech.RATE else speech.resample(samples, rate))


# ---------------------------------------------------------------- pictures


def pictures(source: Inbox | str | Path) -> "dict[str, Image]":
    """RGB pictures by name, upright, at most 1,024 pixels a side: the chosen ones, a file's, or a folder's.

    An empty inbox gives some of the course's own, aloud. MediaError for what is no usable picture.
    """
    if isinstance(source, Inbox):
        _fits(source, "pictures")
        if source.received:
            return {name: picture(io.BytesIO(content), name) for name, content in source.received[-MOST_PICTURES:]}
        print("No picture was chosen. Used instead: 24 scenes that the course drew.")
        print('To use your own, choose some above, then run this cell again; or write pictures("path/to/folder").')
        return {path.stem: picture(path) for path in sorted((DATA / "samples" / "pictures").glob("*.png"))}
    path = Path(source)
    return dict(_folder(path)) if path.is_dir() else {path.stem: picture(path)}


def _folder(path: Path) -> "Iterator[tuple[str, Image]]":
    """The pictures of a folder; what is none is named and left out. MediaError if there is no picture at all."""
    found = 0
    for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
        if found == MOST_PICTURES:
            print(f"{path.name} holds more: the first {MOST_PICTURES} are taken.")
            return
        try:
            yield file.stem, picture(file)
            found += 1
        except MediaError as error:
            print(f"Left out: {error}")
    if not found:
        raise MediaError(f"The folder {path.name} holds no picture that can be read. JPEG, PNG and WebP can.")


def picture(source: "Path | io.BytesIO", name: str = "") -> "Image":
    """One picture as RGB, turned upright as its EXIF says, transparent parts white, at most 1,024 pixels a side."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    name = name or (source.name if isinstance(source, Path) else "the picture")
    try:
        with Image.open(source) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise MediaError(f"{name} has {opened.width} x {opened.height} pixels, too many: shrink it first.")
            opened.draft("RGB", (SIDE, SIDE))  # lets JPEG be unpacked at a smaller size
            upright = ImageOps.exif_transpose(opened)
            upright.thumbnail((SIDE, SIDE))
            paper = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(paper, upright.convert("RGBA")).convert("RGB")
    except FileNotFoundError as error:
        raise MediaError(f"There is no file {source}. Put it beside the notebook, or give its path.") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise MediaError(f"{name} is no picture that can be read here (JPEG, PNG and WebP can).") from error
