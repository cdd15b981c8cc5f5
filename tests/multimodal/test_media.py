"""The reader's own sounds and pictures: what is taken, what is refused and in which words, what is used instead."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import broken_files
import numpy as np
import pytest
import soundfile
from PIL import Image

from course_utils import figures
from course_utils.multimodal import media
from course_utils.prisma import speech
from course_utils.settings import DATA

TONE = (0.3 * np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000)).astype(np.float32)


def peak_frequency(audio: np.ndarray) -> float:
    return np.fft.rfft(audio).__abs__().argmax() * speech.RATE / len(audio)


# ---------------------------------------------------------------- sounds


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("ending, channels", [("wav", 1), ("flac", 2)])
def test_a_sound_file_of_any_rate_arrives_as_mono_at_16_khz(tmp_path, rate, ending, channels):
    tone = 0.3 * np.sin(np.arange(2 * rate) * 2 * np.pi * 1000 / rate)
    path = tmp_path / f"my voice.{ending}"
    soundfile.write(path, np.stack([tone] * channels, 1), rate)
    made = media.sound(path)
    assert (made.origin, made.text, made.audio.dtype, made.audio.ndim) == (path.name, None, np.float32, 1)
    assert abs(len(made.audio) - 32_000) <= 320 and abs(peak_frequency(made.audio) - 1000) < 1
    assert np.abs(made.audio).max() <= 1


def test_quiet_and_loud_microphones_give_the_same_loudness(tmp_path):
    loudness = []
    for gain in (0.01, 1.0):
        soundfile.write(tmp_path / "a.wav", TONE * gain, 16_000, subtype="FLOAT")
        loudness.append(np.sqrt(np.mean(media.sound(str(tmp_path / "a.wav")).audio ** 2)))
    assert loudness[0] == pytest.approx(loudness[1], rel=1e-3) and loudness[0] > 0.05


@pytest.mark.parametrize(
    "samples, told",
    [
        (np.zeros(16_000), "silent. Is the microphone muted"),
        (TONE * 1e-3, "silent"),
        (TONE[:0], "empty or too short"),
        (TONE[:1_000], r"too short \(0.06 s\)"),
        (np.tile(TONE, 31), "31 s long. At most 30 s"),
        (np.full(16_000, np.nan), "not finite"),
    ],
    ids=["silent", "whisper-quiet", "empty", "short", "long", "damaged"],
)
def test_a_sound_that_cannot_be_used_is_refused(tmp_path, samples, told):
    soundfile.write(tmp_path / "a.wav", samples.astype(np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(media.MediaError, match=told):
        media.sound(tmp_path / "a.wav")
    inbox = media.Inbox("sound", [("recording", samples.astype(np.float32).tobytes())])
    with pytest.raises(media.MediaError, match=told):
        media.sound(inbox)


def test_what_is_no_sound_is_refused(tmp_path):
    (tmp_path / "notes.wav").write_text("these are words")
    with pytest.raises(media.MediaError, match="notes.wav is no sound .* WAV, FLAC, OGG and MP3 can"):
        media.sound(tmp_path / "notes.wav")
    with pytest.raises(media.MediaError, match="There is no file .*gone.wav"):
        media.sound(tmp_path / "gone.wav")
    with pytest.raises(media.MediaError, match="There is no file"):
        media.sound(tmp_path)


def test_a_long_file_is_measured_before_it_is_read(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.tile(TONE, 31), 16_000)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("read a file that is too long"))
    with pytest.raises(media.MediaError, match="31 s long"):
        media.sound(tmp_path / "a.wav")


@pytest.mark.parametrize("name", broken_files.sounds())
def test_every_format_that_is_named_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(broken_files.sounds()[name])
    made = media.sound(tmp_path / name)
    assert abs(len(made.audio) - 8_000) <= 1_200 and abs(peak_frequency(made.audio) - 16_000 / 6 / 2 / np.pi) < 3


def test_damaged_sounds_are_read_or_refused_in_words(tmp_path):
    for name, content in broken_files.damaged(broken_files.sounds(), 120, seed=7):
        (tmp_path / name).write_bytes(content)
        try:
            assert np.isfinite(media.sound(tmp_path / name).audio).all()
        except media.MediaError as refused:
            assert len(str(refused)) > 30


def test_formats_that_are_not_named_are_not_opened(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.aiff", TONE, 16_000)
    (tmp_path / "b.raw").write_bytes(bytes(64_000))
    (tmp_path / "c.mp3").write_bytes((tmp_path / "a.aiff").read_bytes())
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_, **__: pytest.fail("handed to a decoder"))
    for name in ("a.aiff", "b.raw", "c.mp3"):
        with pytest.raises(media.MediaError, match=f"{name} is no sound"):
            media.sound(tmp_path / name)


@pytest.mark.parametrize(
    "rate, channels, told", [(16_000, 9, "9 channels, at most 8"), (1_000, 1, "claims 1000 samples a second")]
)
def test_a_header_that_claims_too_much_is_refused(tmp_path, rate, channels, told):
    soundfile.write(tmp_path / "a.wav", np.stack([TONE] * channels, 1), rate)
    with pytest.raises(media.MediaError, match=told):
        media.sound(tmp_path / "a.wav")


def test_a_sound_that_breaks_off_is_used_and_said(tmp_path, capsys):
    soundfile.write(tmp_path / "a.mp3", np.tile(TONE, 10), 16_000)
    whole = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(whole[: len(whole) // 2])
    made = media.sound(tmp_path / "a.mp3")
    assert 16_000 < len(made.audio) < 120_000 and "a.mp3 breaks off:" in capsys.readouterr().out


@pytest.mark.parametrize("take", [media.sound, media.pictures])
def test_a_file_that_is_too_large_or_never_ends_is_refused(tmp_path, monkeypatch, take):
    monkeypatch.setattr(media, "MOST_BYTES", 1_000_000)
    (tmp_path / "a.wav").write_bytes(bytes(1_000_001))
    with pytest.raises(media.MediaError, match="a.wav is larger than 1 MB: cut or shrink it"):
        take(tmp_path / "a.wav")
    for endless in ("/dev/zero", "a\0b", "x" * 300):
        with pytest.raises(media.MediaError, match="There is no file"):
            take(endless)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(media.MediaError, match="There is no file"):
            take(tmp_path / "pipe")


def test_a_recording_that_arrives_in_pieces_is_refused():
    with pytest.raises(media.MediaError, match="arrived in pieces"):
        media.sound(media.Inbox("sound", [("recording", TONE.tobytes()[:-1])]))


def test_a_clipped_sound_is_used_and_told(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.clip(10 * TONE, -1, 1), 16_000)
    assert len(media.sound(tmp_path / "a.wav").audio) == 16_000
    assert "cut off at full volume" in capsys.readouterr().out
    soundfile.write(tmp_path / "a.wav", TONE, 16_000)
    media.sound(tmp_path / "a.wav")
    assert capsys.readouterr().out == ""


def test_the_newest_recording_counts(capsys):
    inbox = media.Inbox("sound")
    inbox.take(None, {"name": "first"}, [memoryview(np.tile(TONE, 2).tobytes())])
    inbox.take(None, {"name": "second"}, [memoryview(TONE.tobytes())])
    made = media.sound(inbox)
    assert (made.origin, len(made.audio), capsys.readouterr().out) == ("second", 16_000, "")


def test_the_wrong_field_is_named():
    for take, kind, wanted in ((media.sound, "pictures", "microphone"), (media.pictures, "sound", "picture_field")):
        with pytest.raises(media.MediaError, match=f"a field for {kind}.*media.{wanted}"):
            take(media.Inbox(kind))


def test_without_a_reader_a_shipped_wish_is_used_and_said(capsys):
    inbox = media.microphone()
    assert not inbox.received and "the notebook runs without a reader" in capsys.readouterr().out
    made = media.sound(inbox)
    assert made.text == "i want the red one" and 16_000 < len(made.audio) <= 32_000
    out = capsys.readouterr().out
    assert "Nothing was recorded" in out and 'press "Record"' in out and 'sound("path/to/file.wav")' in out


# ---------------------------------------------------------------- pictures


def test_a_picture_is_turned_upright_and_shrunk(tmp_path):
    image = Image.new("RGB", (3000, 1500), "blue")
    image.paste("red", (0, 0, 100, 1500))  # the left edge
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: the left edge is up
    image.save(tmp_path / "a.jpg", exif=exif)
    made = media.picture(tmp_path / "a.jpg")
    assert made.mode == "RGB" and made.size == (512, 1024)
    assert made.getpixel((256, 5))[0] > 200 and made.getpixel((256, 900))[2] > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "white").convert("L" if mode in ("I;16", "F") else mode).convert(mode).save(file, "TIFF")
    made = media.picture(file)
    assert (made.mode, made.size) == ("RGB", (40, 30))


def test_transparent_parts_become_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert media.picture(tmp_path / "a.png").getpixel((3, 3)) == (255, 255, 255)


def test_damaged_pictures_are_read_or_refused_in_words(tmp_path):
    for name, content in broken_files.damaged(broken_files.pictures(), 320, seed=7):
        (tmp_path / name).write_bytes(content)
        try:
            assert media.picture(tmp_path / name).mode == "RGB"
        except media.MediaError as refused:
            assert len(str(refused)) > 30


@pytest.mark.parametrize("name", broken_files.pictures())
def test_the_same_pictures_undamaged_are_read(name):
    image = media.picture(io.BytesIO(broken_files.pictures()[name]))
    assert image.size == ((24, 20) if "exif" in name or name in ("one.webp", "lzw.tiff") else (20, 24))


def test_postscript_is_not_run_whatever_it_is_called(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"
    for name in ("a.png", "b.eps", "c.jpg"):
        (tmp_path / name).write_bytes(script)
        with pytest.raises(media.MediaError, match=f"{name} is no picture"):
            media.picture(tmp_path / name)


def test_two_pictures_of_one_name_are_two(tmp_path):
    for ending, colour in (("jpg", "red"), ("png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"cat.{ending}")
    made = media.pictures(str(tmp_path))
    assert list(made) == ["cat", "cat.png"] and made["cat.png"].getpixel((3, 3)) == (0, 0, 255)


def test_a_folder_gives_its_pictures_and_names_what_it_leaves_out(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    Image.new("L", (8, 8)).save(tmp_path / "a.webp")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / ".hidden").write_text("words")
    (tmp_path / "half.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
    assert list(media.pictures(tmp_path)) == ["a", "b"]
    out = capsys.readouterr().out
    assert "Left out: notes.txt is no picture" in out and "half.png" in out and "hidden" not in out


def test_a_folder_is_read_up_to_a_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(media, "MOST_PICTURES", 3)
    for i in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    assert list(media.pictures(tmp_path)) == ["0", "1", "2"] and "the first 3 are taken" in capsys.readouterr().out


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(media.MediaError, match="holds no picture"):
        media.pictures(tmp_path)
    (tmp_path / "a.jpg").write_text("words")
    with pytest.raises(media.MediaError, match="a.jpg is no picture .*JPEG, PNG and WebP"):
        media.pictures(tmp_path / "a.jpg")
    with pytest.raises(media.MediaError, match="There is no file"):
        media.pictures(tmp_path / "gone.jpg")
    with pytest.raises(media.MediaError, match="shrink it first"):
        Image.new("1", (9_000, 9_000)).save(tmp_path / "vast.png")
        media.pictures(tmp_path / "vast.png")


def test_chosen_pictures_keep_their_names():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    inbox = media.Inbox("pictures")
    inbox.take(None, {"name": "my cat.jpg"}, [file.getvalue()])
    ((name, image),) = media.pictures(inbox).items()
    assert name == "my cat.jpg" and image.getpixel((3, 3))[0] > 250


def test_without_a_reader_shipped_pictures_are_used_and_said(capsys):
    made = media.pictures(media.picture_field())
    assert len(made) == 24 and {image.size for image in made.values()} == {(64, 64)}
    assert "No picture was chosen" in capsys.readouterr().out and (DATA / "samples" / "pictures").is_dir()


# ---------------------------------------------------------------- the recorder


@pytest.fixture
def reader(monkeypatch):
    """As if somebody sat before a notebook; returns what is displayed."""
    shown = []
    monkeypatch.delenv("COURSE_QUIET")
    monkeypatch.setattr(figures, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    return shown


def test_the_recorder_says_where_things_go_before_it_can_be_used(reader, capsys):
    inbox = media.microphone(seconds=3)
    (recorder,) = reader
    out = " ".join(capsys.readouterr().out.split())
    assert "Only when you ask for it" in out and "on which Jupyter runs. No file is written" in out
    assert (recorder.kind, recorder.seconds, recorder.longest) == ("sound", 3, 30.0)
    recorder._handle_custom_msg({"name": "recording"}, [TONE.tobytes()])  # what a message from the browser calls
    assert media.sound(inbox).origin == "recording"


def test_what_is_recorded_does_not_get_into_the_widgets_state(reader):
    inbox = media.picture_field()
    before = dict(reader[0].get_state())
    reader[0]._handle_custom_msg({"name": "cat.jpg"}, [b"content of a private picture"])
    assert inbox.received and reader[0].get_state() == before


def test_on_colab_the_place_is_named(reader, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    media.picture_field()
    assert "a computer of Google's (Colab)" in capsys.readouterr().out


def test_without_the_widgets_package_the_cure_is_named(reader, monkeypatch, capsys):
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda name: None)
    assert not media.microphone().received and reader == []
    assert 'pip install -c constraints.txt "anywidget"`' in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_browsers_part_is_valid_javascript(tmp_path):
    script = tmp_path / "media.mjs"
    script.write_text(Path(media.__file__).with_name("media.js").read_text("utf-8"), "utf-8")
    subprocess.run(["node", "--check", script], check=True)
