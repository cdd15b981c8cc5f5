"""What the models are given: lists, sounds and pictures, converted where that is safe and refused in words where not.

Every public function that takes one of them reads it through here, so all of them take the same.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SILENCE = 1e-3  # a sound that swings less than this around its mean (-60 dB of full scale) is no speech
MOST_CHANNELS = 8  # 7.1 surround; an axis longer than that is time, or this is no sound
MOST_SWING = 100.0  # sound in floats lies between -1 and 1; far beyond it are whole numbers that became floats

# ---------------------------------------------------------------- lists


def as_list(items: Any, what: str) -> list:
    """`items` as a list. TypeError for one string, sound, picture or message where a list of `what` is wanted.

    A string is a sequence of letters and an array one of numbers: without this, each letter would be a text.
    """
    alone = isinstance(items, str | bytes | dict) or not isinstance(items, Iterable)
    if alone or _is_array(items):
        kind = type(items).__name__
        raise TypeError(
            f"A list of {what} is wanted here, and this is one {kind}. "
            "Put it in square brackets, `[...]`, even if it is the only one."
        )
    return list(items)


def _is_array(items: Any) -> bool:
    """Whether this is a tensor or an array of numbers. A table's column of texts is a list like any other."""
    if hasattr(items, "detach"):
        return True
    dtype = getattr(items, "dtype", None)
    return getattr(dtype, "kind", "O") in "biufc"


def as_texts(items: Any, what: str = "texts") -> list[str]:
    """`items` as a list of strings. TypeError for one string, and for a list that holds something else."""
    texts = as_list(items, what)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"Number {number} in the list of {what} is of type {kind}: each has to be a string.")
    return texts


# ---------------------------------------------------------------- sounds


def as_sound(audio: Any) -> "np.ndarray":
    """One sound as float32, mono, from -1 to 1, shape (n,). The rate is not seen: it has to be 16 kHz already.

    Takes arrays, tensors and lists: floats, or whole numbers as sound files store them (uint8, int16, int32); one
    axis, or two of which one holds at most 8 channels, whose mean is taken. ValueError, which names shape or dtype,
    for anything else, for an empty sound, and for numbers that are not finite.
    """
    import numpy as np

    scaled = _scaled(_array(audio))
    samples = _mono(scaled)
    loudest = np.abs(samples).max()
    if not np.isfinite(loudest):
        raise ValueError("The sound holds numbers that are not finite (NaN or infinity): it is damaged. Make it again.")
    if loudest > MOST_SWING:
        raise ValueError(
            f"The loudest sample is {loudest:.4g}, and sound of type float lies between -1 and 1. "
            "Divide it by what full volume is: by 32768 if it was int16."
        )
    return np.ascontiguousarray(samples, np.float32)


def is_silent(samples: "np.ndarray") -> bool:
    """Whether there is nothing to hear in what `as_sound` returned. A constant is silence, too."""
    import numpy as np

    swing = np.ptp(samples) / 2
    return bool(swing < SILENCE)


def _array(audio: Any) -> "np.ndarray":
    import numpy as np

    if hasattr(audio, "detach"):  # a tensor, perhaps on a GPU, perhaps in bfloat16, which NumPy lacks
        audio = audio.detach()
        if audio.is_floating_point():
            audio = audio.float()
        audio = audio.cpu()
    try:
        return np.asarray(audio)
    except ValueError as error:
        raise ValueError("A sound is one list of numbers, and the parts of this one differ in length.") from error


def _scaled(samples: "np.ndarray") -> "np.ndarray":
    """Floats as they are, and whole numbers as floats from -1 to 1. ValueError for any other type."""
    import numpy as np

    if samples.size == 0:
        raise ValueError(f"The sound is empty: its shape is {samples.shape}.")
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinity, which is refused
            return samples.astype(np.float32)
    if samples.dtype == np.uint8:  # the one type whose silence is not 0
        centred = samples.astype(np.float32) - 128
        return centred / 128
    if samples.dtype in (np.int16, np.int32):
        full = 2.0 ** (8 * samples.itemsize - 1)
        return samples.astype(np.float32) / full
    raise ValueError(
        f"The sound is of type {samples.dtype}. Floats from -1 to 1 are read, and whole numbers as files store "
        "them: uint8, int16, int32. Convert it, say with `.astype(np.int16)` if it was recorded in 16 bits."
    )


def _mono(samples: "np.ndarray") -> "np.ndarray":
    """The mean of the channels, wherever they are. ValueError if no axis can be that of the channels."""
    import numpy as np

    if samples.ndim == 1:
        return samples
    if samples.ndim != 2 or min(samples.shape) > MOST_CHANNELS:
        raise ValueError(
            f"A sound has the shape (n,), or (n, channels) with at most {MOST_CHANNELS} channels; "
            f"this one has {samples.shape}. Several sounds go into a list."
        )
    channels = int(np.argmin(samples.shape))
    return samples.mean(channels)


# ---------------------------------------------------------------- pictures

# The value that means white, the first that holds all values: 16-bit files may come as "I", floats in any of these.
WHITES = {"I;16": (65535,), "I": (255, 65535), "F": (1, 255, 65535)}


def as_rgb(image: "Image", side: int | None = None) -> "Image":
    """The picture as RGB, upright as its EXIF says, on white where it is transparent, at most `side` pixels a side.

    16 bits and floats become 8 bits of the same shade; of moving pictures the frame that is open is taken (the
    first, right after `Image.open`). TypeError for what is no picture, ValueError for one without pixels.
    """
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise TypeError(f"A picture is a PIL image, and this is of type {kind}: open it with `media.picture(path)`.")
    if 0 in image.size:
        raise ValueError(f"The picture has no pixels: its size is {image.width} x {image.height}.")
    plain = _eight_bits(ImageOps.exif_transpose(image))
    if side:
        plain.thumbnail((side, side))
    return _on_white(plain)


def _eight_bits(image: "Image") -> "Image":
    """The picture in a mode that can be shrunk without loss of shades: L, RGB or RGBA, or one of their kin."""
    mode = image.mode.rstrip("LBN")  # in which order the two bytes are
    if mode in WHITES:
        return _grey(image, WHITES[mode])
    if image.mode == "La":  # the one mode that Pillow turns into nothing but its sister
        image = image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    # Pillow would shrink palettes and 1-bit scans by leaving pixels out.
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _grey(image: "Image", whites: tuple[int, ...]) -> "Image":
    """A picture of numbers as 8-bit grey. Outside of every usual range, its darkest is black, its lightest white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("The picture holds numbers that are not finite (NaN or infinity).")
    fitting = [white for white in whites if low >= 0 and high <= white]
    if not fitting:
        values -= low
        fitting = [max(high - low, 1.0)]
    values *= 255 / fitting[0]
    values += 0.5
    return Image.fromarray(values.astype(np.uint8))


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    paper = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(paper, clear).convert("RGB")
