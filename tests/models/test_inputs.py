"""What models are given: sounds, pictures and lists of every kind that a reader may bring, converted or refused."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import serving
from course_utils.agents import function_calls, react, rewoo
from course_utils.finetuning import quality
from course_utils.models import inputs
from course_utils.multimodal import media
from course_utils.prisma import clip, whisper

TONE = (0.3 * np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000)).astype(np.float32)
PCM = (TONE * 32_767).astype(np.int16)

# ---------------------------------------------------------------- sounds


@pytest.mark.parametrize(
    "given",
    [
        TONE[:, None],
        TONE[None],
        np.stack([TONE, TONE], 1),
        np.stack([TONE, TONE]),
        np.stack([2 * TONE, 0 * TONE], 1),
        PCM,
        np.stack([PCM, PCM], 1),
        PCM.astype(np.int32) << 16,
        (TONE * 127 + 128.5).astype(np.uint8),
        TONE.astype(np.float64),
        TONE.astype(">f4"),
        TONE.tolist(),
        torch.from_numpy(TONE)[None],
        torch.from_numpy(TONE).bfloat16().requires_grad_(),
        torch.from_numpy(PCM),
        TONE[::-1][::-1],
    ],
    ids="column row stereo-columns stereo-rows one-side int16 int16-stereo int32 uint8 float64 big-endian list tensor "
    "bfloat16 int16-tensor view".split(),
)
def test_every_usual_form_of_a_sound_is_the_same_sound(given):
    made = inputs.as_sound(given)
    assert (made.dtype, made.shape, made.flags.c_contiguous) == (np.float32, TONE.shape, True)
    assert np.abs(made - TONE).max() < 0.01


@pytest.mark.parametrize(
    "given, told",
    [
        (np.zeros(0), r"empty: its shape is \(0,\)"),
        (np.zeros((0, 2)), r"empty: its shape is \(0, 2\)"),
        (np.zeros((4, 5, 6)), r"this one has \(4, 5, 6\)"),
        (np.zeros((80, 3000)), r"this one has \(80, 3000\)"),
        (np.float32(0.5), r"this one has \(\)"),
        (TONE + 1j, "of type complex64"),
        (TONE > 0, "of type bool"),
        (PCM.astype(np.int64), r"of type int64.*astype\(np.int16\)"),
        (np.array([None, 1.0]), "of type object"),
        (["a", "b"], "of type <U1"),
        ([[0.1, 0.2], [0.3]], "differ in length"),
        (np.where(TONE > 0.29, np.nan, TONE), "not finite"),
        (np.where(TONE > 0.29, np.inf, TONE), "not finite"),
        (TONE.astype(np.float64) * 1e300, "not finite"),
        (PCM.astype(np.float32), "Divide it by .* 32768"),
    ],
    ids="empty pair 3-d spectrogram number complex bool int64 object words ragged nan inf huge unscaled".split(),
)
def test_what_is_no_sound_is_named(given, told):
    with pytest.raises(ValueError, match=told):
        inputs.as_sound(given)


def test_silence_is_known_wherever_it_lies():
    for quiet in (np.zeros(99), TONE * 1e-3, np.full(99, 0.5), np.full(99, 127, np.uint8)):
        assert inputs.is_silent(inputs.as_sound(quiet))
    assert not inputs.is_silent(inputs.as_sound(TONE + 0.5))


def test_prisma_whisper_hears_the_same_in_every_form():
    expected = whisper.mel(TONE)
    assert torch.equal(whisper.mel(TONE[:, None]), expected)
    assert (whisper.mel(PCM) - expected).abs().max() < 0.05
    with pytest.raises(ValueError, match="not finite"):
        whisper.transcribe(None, np.full(99, np.nan))


# ---------------------------------------------------------------- pictures

RAMP = np.repeat(np.arange(64, dtype=np.uint16) * 4, 4).reshape(1, -1).repeat(8, 0)  # 64 levels, 0 to 252


def saved(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return io.BytesIO(file.getvalue())


def ramp_as(kind: str) -> io.BytesIO:
    """The same grey ramp in a file of another kind."""
    grey = Image.fromarray(RAMP.astype(np.uint8))
    made = {
        "16-bit png": lambda: saved(Image.fromarray(RAMP * 257)),
        "16-bit tiff": lambda: saved(Image.fromarray(RAMP * 257), "TIFF"),
        "32-bit tiff": lambda: saved(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"),
        "float tiff": lambda: saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
        "float tiff to 255": lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        "palette": lambda: saved(grey.convert("P")),
        "grey and alpha": lambda: saved(grey.convert("LA")),
        "rgba": lambda: saved(grey.convert("RGBA"), "WEBP", lossless=True),
        "cmyk": lambda: saved(grey.convert("RGB").convert("CMYK"), "TIFF"),
        "cmyk jpeg": lambda: saved(grey.convert("RGB").convert("CMYK"), "JPEG", quality=100),
        "gif": lambda: saved(grey, "GIF"),
        "bmp": lambda: saved(grey, "BMP"),
    }
    return made[kind]()


KINDS = "16-bit png,16-bit tiff,32-bit tiff,float tiff,float tiff to 255,palette,grey and alpha,rgba,cmyk,cmyk jpeg"


@pytest.mark.parametrize("kind", [*KINDS.split(","), "gif", "bmp"])
def test_a_ramp_of_64_greys_stays_one_in_every_kind_of_file(kind):
    made = np.asarray(media.picture(ramp_as(kind)), int)
    assert made.shape == (8, 256, 3)
    assert np.abs(made - RAMP[..., None]).max() <= (3 if "jpeg" in kind else 0)
    assert np.array_equal(made, np.asarray(inputs.as_rgb(Image.open(ramp_as(kind)))))


def test_what_is_transparent_is_white_in_every_kind_of_file():
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((0, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    red = saved(Image.new("RGB", (2, 1), "red"), transparency=(255, 0, 0))
    for file in (saved(half), saved(half, "WEBP", lossless=True), saved(palette, transparency=0)):
        assert np.asarray(media.picture(file)).tolist() == [[[255, 255, 255], [255, 0, 0]]]
    assert media.picture(red).getpixel((0, 0)) == (255, 255, 255)
    assert inputs.as_rgb(half.convert("LA").convert("La")).getpixel((0, 0)) == (255, 255, 255)


def test_of_moving_pictures_the_first_is_taken_and_said(capsys):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        made = media.picture(saved(frames[0], kind, save_all=True, append_images=frames[1:]), "cat")
        red, green, blue = made.getpixel((4, 4))
        assert red > 240 and max(green, blue) < 15
        assert capsys.readouterr().out == "cat holds several pictures: the first is taken.\n"


def test_a_large_scan_in_one_bit_is_shrunk_to_greys():
    checks = Image.fromarray((np.indices((2048, 2048)).sum(0) % 2).astype(bool))
    made = np.asarray(media.picture(saved(checks)), int)
    assert made.shape == (1024, 1024, 3) and abs(made.mean() - 127) < 3 and made.std() < 20


def test_numbers_beyond_every_range_become_darkest_to_lightest():
    depths = Image.fromarray(np.array([[-5.0, 0.0, 5.0]], np.float32))
    assert np.asarray(inputs.as_rgb(depths))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="not finite"):
        inputs.as_rgb(Image.fromarray(np.array([[np.nan]], np.float32)))


def test_a_pictures_own_object_is_left_alone():
    image = Image.new("RGBA", (2000, 10))
    inputs.as_rgb(image, side=100)
    assert (image.mode, image.size) == ("RGBA", (2000, 10))


def test_what_is_no_picture_is_named():
    with pytest.raises(TypeError, match="PIL image, and this is of type ndarray"):
        inputs.as_rgb(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="no pixels: its size is 0 x 5"):
        inputs.as_rgb(Image.new("RGB", (0, 5)))


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "call",
    [
        lambda: react.run_direct(None, "Where is order 4821?"),
        lambda: react.run_many(None, None, "Where is order 4821?"),
        lambda: function_calls.run_calls(None, None, "Where is order 4821?"),
        lambda: rewoo.run_rewoo(None, None, "Where is order 4821?"),
        lambda: quality.bleu("the red cube", "the red cube"),
        lambda: quality.rouge_l("the red cube", ["the red cube"]),
        lambda: serving.burst(None, "hello", at_once=2),
        lambda: clip.embed_texts(None, "a red cube"),
        lambda: whisper.word_errors("the red cube", "the red cube"),
    ],
    ids="direct many calls rewoo bleu rouge burst clip errors".split(),
)
def test_one_string_is_no_list_of_texts(call):
    with pytest.raises(TypeError, match=r"A list of \w+ is wanted here, and this is one str\. .*square brackets"):
        call()


@pytest.mark.parametrize(
    "alone", ["text", b"text", {"role": "user"}, 5, None, TONE, torch.zeros(3), Image.new("L", (1, 1))]
)
def test_one_thing_is_no_list(alone):
    with pytest.raises(TypeError, match=f"this is one {type(alone).__name__}"):
        inputs.as_list(alone, "things")


def test_lists_of_every_kind_are_lists():
    pandas = pytest.importorskip("pandas")
    column = pandas.DataFrame({"question": ["a", "b"]})["question"]
    for some in (["a", "b"], ("a", "b"), iter("ab"), {"a": 1, "b": 2}.keys(), column, np.array(["a", "b"])):
        assert inputs.as_texts(some) == ["a", "b"]
    with pytest.raises(TypeError, match="Number 1 in the list of texts is of type NoneType"):
        inputs.as_texts(["a", None])
