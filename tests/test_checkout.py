"""A checkout has the same bytes on every system, whatever git is told about line ends."""

import shutil
import subprocess
from pathlib import Path

import pytest

from course_utils.settings import ROOT

BINARY = (".safetensors", ".png", ".ogg", ".pdf", ".gz")
WINDOWS = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")  # how git is often set up there

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(*words: str) -> list[str]:
    """What git prints about this checkout, split at its zero bytes."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip("no git checkout")
    return done.stdout.decode().split("\0")[:-1]


@needs_git
def test_text_has_lf_and_the_rest_is_left_alone() -> None:
    files = git("ls-files", "-z")
    assert any(name.endswith(".safetensors") for name in files)
    fields = git("check-attr", "-z", "text", "eol", "--", *files)
    attributes = dict(zip(zip(fields[::3], fields[1::3], strict=True), fields[2::3], strict=True))
    for name in files:
        if name.endswith(BINARY):
            assert attributes[name, "text"] == "unset", name
        else:
            assert (attributes[name, "text"], attributes[name, "eol"]) == ("auto", "lf"), name
            assert b"\r\n" not in (ROOT / name).read_bytes(), name


@needs_git
def test_windows_checks_out_the_same_bytes(tmp_path: Path) -> None:
    git(*WINDOWS, "checkout-index", "--all", f"--prefix={tmp_path.as_posix()}/")
    plain = tmp_path / "plain"
    git("-c", "core.autocrlf=false", "checkout-index", "--all", f"--prefix={plain.as_posix()}/")
    for name in git("ls-files", "-z"):
        assert (tmp_path / name).read_bytes() == (plain / name).read_bytes(), name


@needs_git
def test_without_the_attributes_windows_would_change_text(tmp_path: Path) -> None:
    """The settings above do what they are meant to do: where nothing speaks against it, LF becomes CRLF."""
    page = tmp_path / "page.md"
    page.write_bytes(b"one\ntwo\n")
    for words in (["init", "-q"], ["add", "page.md"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    page.unlink()
    subprocess.run(["git", "-C", str(tmp_path), *WINDOWS, "checkout-index", "--all"], check=True)
    assert page.read_bytes() == b"one\r\ntwo\r\n"
