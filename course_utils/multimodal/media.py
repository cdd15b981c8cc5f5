"""The reader's own voice and pictures: recorded or chosen in the browser, or read from files.

A recorder that nobody uses gives a shipped sound, and says so: no cell waits for a person. Sounds and pictures go
from the browser into the kernel's memory; nothing is written to a file or sent elsewhere.
"""

import importlib.util
import io
import os
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import colab, figures
from course_utils.models import inputs
from course_utils.prisma import speech
from course_utils.settings import DATA

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SHORTEST, LONGEST = 0.2, 30.0  # seconds; Whisper's window is 30
LOUD = 0.99  # of full scale; samples at or above it were cut by the microphone
MOST_CLIPPED = 0.005  # share of cut samples from which words suffer
SIDE = 1024  # pixels; CLIP looks at no more than 224
MOST_PIXELS = 80_000_000  # a file may claim any size, and unpacking it takes 3 bytes a pixel
MOST_PICTURES = 64
MOST_BYTES = 100_000_000  # of a file; 30 s of sound in the best quality take a tenth of it
RATES = range(4_000, 384_001)  # samples a second, from telephones to studios

# What is opened, by name: everything else a library could open is one more parser for a file from anywhere, and one
# of them hands PostScript to another program that runs it.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SOUND_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
SOUND_STARTS = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3")


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
    if not isinstance(source, Inbox):
        path = Path(source)
        return Sound(_usable(*_decoded(_content(path), path.name)), path.name)
    _fits(source, "sound")
    if source.received:
        name, content = source.received[-1]
        return Sound(_usable(_samples(content), speech.RATE), name)
    from course_utils.prisma import wishes

    wish = next(wish for wish in wishes.load() if wish.test)
    print("Nothing was recorded or chosen. Used instead: a wish that espeak-ng spoke for the course.")
    print('To use your own voice, press "Record" above, then run this cell again; or write sound("path/to/file.wav").')
    return Sound(speech.trim(wish.audio, floor=0.03), "shipped wish", wish.text)


def _fits(inbox: Inbox, kind: str) -> None:
    if inbox.kind != kind:
        field = "microphone()" if kind == "sound" else "picture_field()"
        raise MediaError(f"This is a field for {inbox.kind}, and {kind} is wanted: give what media.{field} returned.")


def _content(path: Path) -> bytes:
    """The bytes of a file of a bearable size. Devices and pipes, which may never end, are no files."""
    if not os.path.isfile(path):
        raise MediaError(f"There is no file {path}. Put it beside the notebook, or give its whole path.")
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise MediaError(f"{path.name} cannot be opened ({error.strerror}): close what uses it, or copy it.") from error
    if len(content) > MOST_BYTES:
        raise MediaError(f"{path.name} is larger than {MOST_BYTES / 1e6:.0f} MB: cut or shrink it first.")
    return content


def _samples(content: bytes) -> "np.ndarray":
    """What the browser sent: float32, mono, 16 kHz."""
    import numpy as np

    if len(content) % 4:
        raise MediaError("The recording arrived in pieces: record it again.")
    return np.frombuffer(content, np.float32)


def _decoded(content: bytes, name: str) -> tuple["np.ndarray", int]:
    """The samples of a sound file, (n, channels), and their rate. It is measured before it is read."""
    import soundfile

    _check_start(content, name)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_header(file, name)
            # A damaged header may claim any length.
            samples = file.read(int(LONGEST * file.samplerate) + 1, dtype="float32", always_2d=True)
            _tell_short(len(samples), file.frames, name)
            return samples, file.samplerate
    except MediaError:
        raise
    except Exception as error:  # damaged files make the decoders fail in ways that no list of errors holds
        raise _no_sound(name) from error


def _no_sound(name: str) -> MediaError:
    return MediaError(
        f"{name} is no sound that can be read here, or it is damaged. WAV, FLAC, OGG and MP3 can. "
        "Choose an M4A or WebM file with the field above instead: the browser reads it."
    )


def _check_start(content: bytes, name: str) -> None:
    """MediaError for what does not begin as the formats do that are opened."""
    without_tags = content[:1] == b"\xff" and content[1:2] >= b"\xe0"  # an MP3 that starts with its sound
    if not (content.startswith(SOUND_STARTS) or without_tags):
        raise _no_sound(name)


def _check_header(file: Any, name: str) -> None:
    """MediaError for a format, rate, number of channels or length that is not taken."""
    if file.format not in SOUND_FORMATS:
        raise _no_sound(name)
    if file.samplerate not in RATES:
        raise MediaError(f"{name} claims {file.samplerate} samples a second: it is damaged. Save it again.")
    if file.channels > inputs.MOST_CHANNELS:
        raise MediaError(f"{name} has {file.channels} channels, at most {inputs.MOST_CHANNELS} are taken: mix it down.")
    _check_length(file.frames / file.samplerate)


def _tell_short(read: int, promised: int, name: str) -> None:
    if read < 0.95 * promised:  # the length of an MP3 is an estimate
        print(f"{name} breaks off: {read / promised:.0%} of its sound is there, and is used.")


def _check_length(seconds: float) -> None:
    if seconds < SHORTEST:
        raise MediaError(f"The sound is empty or too short ({seconds:.2f} s): record at least a word.")
    if seconds > LONGEST:
        raise MediaError(f"The sound is {seconds:.0f} s long. At most {LONGEST:.0f} s are taken: cut it first.")


def _usable(samples: "np.ndarray", rate: int) -> "np.ndarray":
    """The sound at 16 kHz and an even loudness, if it is one; MediaError otherwise. Clipping is only told."""
    import numpy as np

    _check_length(len(samples) / rate)
    try:
        samples = inputs.as_sound(samples)
    except ValueError as error:
        raise MediaError(str(error)) from error
    if inputs.is_silent(samples):
        raise MediaError("The sound is silent. Is the microphone muted, or is another one chosen in the browser?")
    if (clipped := np.mean(np.abs(samples) >= LOUD)) > MOST_CLIPPED:
        print(f"{clipped:.1%} of the sound is cut off at full volume, so words may be lost. Record it again, softer.")
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
    return _folder(path) if os.path.isdir(path) else {path.stem: picture(path)}


def _folder(path: Path) -> "dict[str, Image]":
    """The pictures of a folder; what is none is named and left out. MediaError if there is no picture at all."""
    taken: dict[str, Image] = {}
    for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
        if len(taken) == MOST_PICTURES:
            print(f"{path.name} holds more: the first {MOST_PICTURES} are taken.")
            break
        name = file.name if file.stem in taken else file.stem  # cat.png and cat.jpg are two pictures
        try:
            taken[name] = picture(file)
        except MediaError as error:
            print(f"Left out: {error}")
    if not taken:
        raise MediaError(f"The folder {path.name} holds no picture that can be read. JPEG, PNG and WebP can.")
    return taken


def picture(source: "str | Path | io.BytesIO", name: str = "") -> "Image":
    """One picture as RGB, turned upright as its EXIF says, transparent parts white, at most 1,024 pixels a side.

    Of a moving picture the first frame. MediaError for what is no picture, for one that is too large, and for
    formats other than PNG, JPEG, WebP, GIF, BMP and TIFF.
    """
    if not isinstance(source, io.BytesIO):
        path = Path(source)
        return picture(io.BytesIO(_content(path)), name or path.name)
    return _drawn(source, name or "the picture")


def _drawn(content: io.BytesIO, name: str) -> "Image":
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged part that no pixel depends on; of sizes refused below
            with Image.open(content, formats=PICTURE_FORMATS) as opened:
                return _prepared(opened, name)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{name} has too many pixels: shrink it first.") from error
    except Exception as error:  # damaged files make Pillow fail in ways that no list of errors holds
        raise MediaError(
            f"{name} is no picture that can be read here (JPEG, PNG and WebP can), or it is damaged."
        ) from error


def _prepared(opened: "Image", name: str) -> "Image":
    if opened.width * opened.height > MOST_PIXELS:
        raise MediaError(f"{name} has {opened.width} x {opened.height} pixels, too many: shrink it first.")
    if getattr(opened, "is_animated", False):
        print(f"{name} holds several pictures: the first is taken.")
    opened.draft("RGB", (SIDE, SIDE))  # lets JPEG be unpacked at a smaller size
    return inputs.as_rgb(opened, SIDE)
