"""A checkout has the same bytes on every system, whatever git is told about line ends."""

import shutil
import subprocess

import pytest

from course_utils.settings import ROOT

BINARY = (".safetensors", ".png", ".ogg")


def git(*words: str) -> list[str]:
    """What git prints about this checkout, split at its zero bytes."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip("no git checkout")
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
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
