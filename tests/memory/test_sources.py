"""What a reader names: files, folders, and a hub that is asked for one small file, or not at all."""

import json
from pathlib import Path

import pytest
from hub import serving

from course_utils.memory import configs, shapes, sources
from course_utils.models import gguf_file, gguf_header
from course_utils.models.transfer import DownloadError
from course_utils.settings import MODELS

CONFIG = {"model_type": "qwen3", "num_hidden_layers": 2}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback with one model, and an empty cache."""
    with serving() as server:
        server.files["somebody/small"] = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"x" * 99}
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield server


def said(name: str | Path) -> tuple[object, list[str]]:
    heard: list[str] = []
    return sources.find(name, heard.append), heard


def test_a_file_and_a_folder_are_read_in_silence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert said(tmp_path) == (CONFIG, []) == said(tmp_path / "config.json")
    other = tmp_path / "of another name.txt"
    other.write_text(json.dumps(CONFIG))
    assert said(str(other)) == (CONFIG, [])


def test_a_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    file = gguf_file.write_gguf(MODELS / "prisma-lm", tmp_path / "prisma.gguf")
    header = gguf_header.read(file)
    assert said(file) == (header, []) == said(tmp_path)
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="2 GGUF files: name one"):
        said(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"<html>", b"[" * 100_000, b"[]", b"null", b"7"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is damaged"):
        said(tmp_path)


def test_what_is_not_there_is_answered_with_what_could_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No model 'nope'. Known: .*mistral-7b.*owner/name"):
        said("nope")
    with pytest.raises(ValueError, match="no config.json and no GGUF file"):
        said(tmp_path)
    with pytest.raises(ValueError, match="longer than any configuration"):
        (tmp_path / "config.json").write_text(" " * (configs.MOST_BYTES + 1))
        said(tmp_path)


def test_of_a_hub_one_file_is_asked_for_and_that_is_said_before(hub) -> None:
    config, heard = said("somebody/small")
    assert config == {"_name_or_path": "somebody/small"} | CONFIG
    assert hub.requests == ["GET config.json"]
    assert len(heard) == 1 and "config.json of somebody/small" in heard[0] and "no weights" in heard[0]


def test_the_cache_is_looked_at_first(hub, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--somebody--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "config.json").write_text(json.dumps(CONFIG))
    config, heard = said("somebody/small")
    assert config["model_type"] == "qwen3" and not heard and not hub.requests


def test_a_hub_that_has_it_not_sends_rubbish_or_too_much(hub) -> None:
    with pytest.raises(DownloadError, match="404.*Compare the name with the hub's page"):
        said("somebody/else")
    hub.files["somebody/page"] = {"config.json": b"<html>log in</html>"}
    with pytest.raises(ValueError, match="config.json of somebody/page is damaged"):
        said("somebody/page")
    hub.files["somebody/huge"] = {"config.json": b" " * (configs.MOST_BYTES + 10**6)}
    with pytest.raises(ValueError, match="longer than any configuration"):
        said("somebody/huge")


def test_offline_no_hub_is_asked(hub, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(DownloadError, match="runs offline.*Unset COURSE_OFFLINE"):
        said("somebody/small")
    assert not hub.requests


@pytest.mark.parametrize("name", ["a/b/c", "../x", "https://x/y", "a/", "/a", "a b/c", "a/b?c", "a/b.json", "a/b.gguf"])
def test_what_is_no_name_on_a_hub_goes_nowhere(hub, name: str) -> None:
    with pytest.raises(ValueError, match="No model"):
        said(name)
    assert not hub.requests


def test_the_name_that_was_asked_for_stays(hub) -> None:
    """Many published files name a folder of their makers, or another model."""
    other = {"model_type": "qwen3", "_name_or_path": "./checkpoint-1000"}
    hub.files["somebody/tuned"] = {"config.json": json.dumps(other).encode()}
    config, _ = said("somebody/tuned")
    assert config["_name_or_path"] == "somebody/tuned"


def test_a_name_that_the_system_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be read|No model"):
        sources.find("x" * 5000)


def test_a_folder_with_a_configuration_too_deep_to_read_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is damaged"):
        shapes.architecture(tmp_path)
