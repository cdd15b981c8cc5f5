"""Damaged sounds and pictures, the same ones from the same seed."""

import io
import random
from collections.abc import Iterator

import numpy as np
import soundfile
from PIL import Image

SOUNDS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def pictures() -> dict[str, bytes]:
    """One small picture in every format that is opened, some in several kinds."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = colours.getexif()
    exif[0x0112] = 6  # turned by a quarter
    deep = Image.fromarray(rng.integers(0, 65536, (24, 20), dtype=np.uint16))
    moving = {"save_all": True, "append_images": [colours.rotate(90)]}
    return {
        "rgb.png": _picture(colours, "PNG"),
        "exif.png": _picture(colours, "PNG", exif=exif),
        "palette.png": _picture(colours.convert("P"), "PNG", transparency=3),
        "deep.png": _picture(deep, "PNG"),
        "moving.png": _picture(colours, "PNG", **moving),
        "exif.jpg": _picture(colours, "JPEG", exif=exif),
        "scan.jpg": _picture(colours.convert("CMYK"), "JPEG", progressive=True),
        "one.gif": _picture(colours, "GIF"),
        "moving.gif": _picture(colours, "GIF", **moving),
        "one.webp": _picture(colours, "WEBP", exif=exif),
        "moving.webp": _picture(colours.convert("RGBA"), "WEBP", **moving),
        "one.bmp": _picture(colours, "BMP"),
        "palette.bmp": _picture(colours.convert("P"), "BMP"),
        "plain.tiff": _picture(colours, "TIFF"),
        "packed.tiff": _picture(deep, "TIFF", compression="tiff_deflate"),
        "lzw.tiff": _picture(colours.convert("CMYK"), "TIFF", compression="tiff_lzw", exif=exif),
    }


def _picture(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sounds() -> dict[str, bytes]:
    """Half a second of a tone in every format that is opened."""
    tone = 0.3 * np.sin(np.arange(8_000) / 6)
    made = {}
    for ending, subtype in SOUNDS.items():
        file = io.BytesIO()
        soundfile.write(file, np.stack([tone, tone], 1), 16_000, format=ending.upper(), subtype=subtype)
        made[f"a.{ending}"] = file.getvalue()
    return made


def damaged(files: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged copies of these files in turn: bytes changed, cut out, doubled, or all that follows lost."""
    rng = random.Random(seed)
    names = list(files)
    for number in range(count):
        name = names[number % len(names)]
        yield name, _damage(files[name], rng)


def _damage(content: bytes, rng: random.Random) -> bytes:
    kind, at = rng.choice(["bits", "bytes", "header", "lost", "cut", "doubled"]), rng.randrange(len(content))
    spoilt = bytearray(content)
    if kind == "lost":
        return content[:at]
    if kind == "cut":
        return content[:at] + content[at + rng.randint(1, 40) :]
    if kind == "doubled":
        return content[:at] + content[max(at - rng.randint(1, 40), 0) :]
    # Most of what decoders stumble over stands at the beginning.
    reach = min(len(content), 96 if kind == "header" else len(content))
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(reach)
        spoilt[place] = spoilt[place] ^ (1 << rng.randrange(8)) if kind == "bits" else rng.choice([0, 1, 127, 255])
    return bytes(spoilt)
