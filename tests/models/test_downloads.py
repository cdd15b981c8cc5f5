import dataclasses
import errno
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path

import pytest
from hub import pins, serving

from course_utils.models import bundled, catalogue, downloads, transfer
from course_utils.models.catalogue import Model
from course_utils.models.downloads import DownloadError, fetch

WEIGHTS = bytes(range(256)) * 400
FILES = {"config.json": b'{"model_type": "qwen2"}', "model.safetensors": WEIGHTS}
MODEL = Model(
    role="chat",
    tier="small",
    id="Qwen/Qwen2.5-0.5B-Instruct",
    licence="Apache-2.0",
    memory_gb=1,
    limits="tiny",
    revision="7ae557604adf67be50417f59c2c2f167def9a775",
    files=pins(FILES),
    download_gb=0.1,
)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback with one model, and an empty cache. What else is in the folder is the reader's."""
    (tmp_path / "thesis.txt").write_text("three years of work")
    with serving() as server:
        server.files[MODEL.id] = FILES
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        yield server


@pytest.fixture
def impatient(monkeypatch):
    """Waiting takes no time; the list holds for how long would have been waited."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


def quiet(text: str) -> None:
    """Listens, and keeps nothing."""


def unfinished(model: Model = MODEL) -> Path:
    """Where what has arrived of the weights is kept."""
    return model.folder.parent.parent / "blobs" / f"{model.files[1].sha256}.incomplete"


def elsewhere(root: Path) -> dict[str, str]:
    """What stands outside the two caches, file by file."""
    files = [path for path in root.rglob("*") if path.is_file() and not {"cache", "own"} & set(path.parts)]
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


def test_files_arrive_whole_and_are_announced(hub):
    said = []
    folder = fetch(MODEL, said.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert folder == MODEL.cached_folder
    assert len(said) == 1
    for part in (MODEL.id, "0.00 GB", "licence Apache-2.0", hub.address):
        assert part in said[0]


def test_it_is_announced_before_anything_is_asked(hub):
    seen = []
    fetch(MODEL, lambda text: seen.append(list(hub.requests)))
    assert seen == [[]]


def test_the_second_time_nothing_is_asked(hub):
    first = fetch(MODEL, quiet)
    hub.requests.clear()
    said = []
    assert fetch(MODEL, said.append) == first
    assert hub.requests == [] and said == []


def test_only_the_listed_files_are_asked_for(hub):
    fetch(MODEL, quiet)
    assert hub.requests == ["GET config.json", "GET model.safetensors"]


def test_what_was_there_before_is_not_downloaded_again(hub):
    fetch(MODEL, quiet)
    (MODEL.folder / "config.json").unlink()
    hub.requests.clear()
    fetch(MODEL, quiet)
    assert hub.requests == ["GET config.json"]


# ---------------------------------------------------------------- before 15 GB


BIG = dataclasses.replace(MODEL, tier="full", id="Qwen/Qwen3-8B")


@pytest.fixture
def large(hub, monkeypatch):
    """The hub, with a model whose weights count as a large download, before anything was measured."""
    hub.files[BIG.id] = FILES
    monkeypatch.setattr(downloads, "WARNED", 50_000)
    monkeypatch.setattr(transfer, "TELLING", 10**9)
    monkeypatch.setattr(transfer, "speed", lambda: (10.0, "assumed"))
    for variable in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(variable, raising=False)
    return hub


def test_before_a_large_download_room_time_and_the_smaller_model_are_told(large):
    seen = []
    fetch(BIG, lambda text: seen.append((text, list(large.requests))))
    (_, (warning, asked)) = seen
    assert asked == ["GET config.json"]  # what is small came first; of the weights nothing was asked for
    lines = [line.strip() for line in warning.splitlines()]
    assert re.fullmatch(r"0\.0 GB are still to come, and \d+ GB are free on this disk\.", lines[0])
    assert lines[1].startswith("About 0 minutes at 10 MB/s (assumed). You can stop the cell")
    small = catalogue.find("chat", "small")
    assert lines[2].startswith(f"Smaller: {small.id}, {small.download_gb:.1f} GB.")
    assert 'tier="small"' in lines[2] and "COURSE_TIER=small" in lines[2] and len(lines) == 3
    assert BIG.cached_folder  # it warned, and went on


@pytest.mark.parametrize(("variable", "name"), [("COLAB_RELEASE_TAG", "Colab"), ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle")])
def test_on_a_hosted_machine_the_download_is_said_to_go_with_it(large, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "x")
    said = []
    fetch(BIG, said.append)
    assert f"{name} takes this machine back after some hours, and the download with it." in said[1]


def test_only_what_is_missing_counts_and_the_smallest_model_names_no_smaller_one(large):
    said = []
    fetch(MODEL, said.append)
    assert len(said) == 2 and "Smaller" not in said[1]
    (MODEL.folder / "config.json").unlink()
    fetch(MODEL, said.append)
    assert len(said) == 3  # the announcement, and no warning


@pytest.mark.parametrize(("enough", "known"), [(1000, "measured"), (10**6, "assumed")])
def test_a_speed_is_measured_on_what_is_long_enough(hub, monkeypatch, tmp_path, enough, known):
    monkeypatch.setattr(transfer, "TELLING", enough)
    before = transfer.speed()
    began = time.monotonic()
    with transfer.connected() as client:
        url = transfer.address(MODEL.id, MODEL.revision, "model.safetensors")
        transfer.receive(client, url, tmp_path / "part", len(WEIGHTS))
    seconds = time.monotonic() - began
    speed, how = transfer.speed()
    if known == "assumed":
        assert (speed, how) == before
    else:
        assert how == "measured" and speed >= len(WEIGHTS) / 1e6 / seconds


# ---------------------------------------------------------------- checksums


@pytest.fixture
def computed(monkeypatch):
    """Names of the files whose checksum was computed, in order."""
    names, real = [], bundled.sha256
    monkeypatch.setattr(bundled, "sha256", lambda path: names.append(path.name) or real(path))
    return names


def test_a_checksum_is_computed_once(hub, computed):
    fetch(MODEL, quiet)
    computed.clear()
    fetch(MODEL, quiet)
    assert computed == []


def test_files_from_another_program_are_checked_once(hub, computed):
    MODEL.folder.mkdir(parents=True)
    for name, content in FILES.items():
        (MODEL.folder / name).write_bytes(content)
    for _ in range(2):
        fetch(MODEL, quiet)
    assert computed == ["config.json", "model.safetensors"] and hub.requests == []


def swap(name: str) -> Path:
    """Put other bytes of the same length into a file, as of the same time."""
    path = MODEL.folder / name
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


@pytest.mark.parametrize("name", list(FILES))
def test_a_swapped_file_of_equal_length_and_time_is_noticed(hub, name, monkeypatch):
    fetch(MODEL, quiet)
    path = swap(name)
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(DownloadError, match="Delete what is named") as caught:
        fetch(MODEL, quiet)
    assert str(path) in caught.value.problem and "SHA-256" in caught.value.problem


def test_a_swapped_file_is_replaced_where_there_is_a_network(hub):
    fetch(MODEL, quiet)
    path, said = swap("model.safetensors"), []
    fetch(MODEL, said.append)
    assert path.read_bytes() == WEIGHTS
    assert str(path) in said[0] and "damaged" in said[0] and said[1].startswith("Downloading")


@pytest.mark.parametrize("notes", [b"", b"{", b"[]", b'{"a": 1}', b"[" * 100_000, b"\xff\xfe"])
def test_notes_that_cannot_be_read_are_made_again(hub, computed, tmp_path, notes):
    fetch(MODEL, quiet)
    computed.clear()
    (tmp_path / "own/genai-course/verified.json").write_bytes(notes)
    fetch(MODEL, quiet)
    assert computed == list(FILES)
    assert len(json.loads((tmp_path / "own/genai-course/verified.json").read_text())) >= 2


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "status, headers, problem, cure",
    [
        (401, {}, "401: it wants a login", "set HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "403: it denies access; the model may be gated", "accept its terms"),
        (
            404,
            {"X-Error-Code": "RepoNotFound"},
            "404: it has no Qwen/Qwen2.5-0.5B-Instruct at revision 7ae55760",
            "git",
        ),
        (404, {}, "config.json", "HF_ENDPOINT"),
        (429, {"Retry-After": "120"}, "429, too many requests .* wait 120 s", "shared HF_HOME"),
        (429, {}, "429, too many requests from this network address$", "Wait and run the cell again"),
        (503, {}, "answers 503", "try again later"),
    ],
)
def test_refusals_are_explained_at_once(hub, impatient, status, headers, problem, cure):
    hub.refuse = (status, headers)
    with pytest.raises(DownloadError, match=cure) as caught:
        fetch(MODEL, quiet)
    assert re.search(problem, caught.value.problem)
    assert caught.value.network is True
    assert impatient == []  # no retries behind the reader's back
    assert MODEL.cached_folder is None and len(hub.requests) == 1


def test_a_token_that_is_not_accepted_is_to_be_renewed(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    hub.refuse = (401, {})
    with pytest.raises(DownloadError, match="unset or renew HF_TOKEN") as caught:
        fetch(MODEL, quiet)
    assert "set HF_TOKEN to" not in str(caught.value)
    assert hub.authorizations == ["Bearer hf_expired"]


@pytest.mark.parametrize("token", ["hf_ü", "hf a", "hf_\x00"])
def test_a_token_that_is_none_is_refused(hub, monkeypatch, token):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    with pytest.raises(DownloadError, match="Unset or renew HF_TOKEN"):
        fetch(MODEL, quiet)
    assert hub.requests == []


def test_a_short_wait_is_waited_out(hub, impatient):
    hub.refuse, hub.refusals = (429, {"Retry-After": "7"}), 1
    said = []
    assert fetch(MODEL, said.append) == MODEL.cached_folder
    assert impatient == [7]
    assert "asks to wait 7 s" in said[1]


@pytest.mark.parametrize("served", [0, 1])
def test_a_short_wait_is_waited_out_only_once(hub, impatient, served):
    hub.refuse, hub.served = (429, {"Retry-After": "7"}), served
    with pytest.raises(DownloadError, match="429"):
        fetch(MODEL, quiet)
    assert impatient == [7]


def test_an_hour_is_not_waited_wherever_it_is_asked_for(hub, impatient):
    hub.refuse, hub.served = (429, {"Retry-After": "3600"}), 1
    with pytest.raises(DownloadError, match="wait 3600 s"):
        fetch(MODEL, quiet)
    assert impatient == [] and len(hub.requests) == 2


@pytest.mark.parametrize(
    "text, seconds",
    [("7", 7), (" 30 ", 30), ("0", 0), *((t, None) for t in ("²", "7" * 5000, "-3", "1e3", "nan", "", "soon", "٣"))],
)
def test_any_text_may_stand_where_seconds_are_expected(text, seconds):
    assert transfer.retry_after(text) == seconds


def test_a_date_may_stand_where_seconds_are_expected():
    now = formatdate(usegmt=True)
    assert transfer.retry_after(now) is None
    later = formatdate(time.time() + 60, usegmt=True)
    assert 50 <= transfer.retry_after(later) <= 60


# ---------------------------------------------------------------- transfers that break


def test_a_transfer_that_is_cut_off_goes_on_from_where_it_was(hub):
    hub.cut = True
    with pytest.raises(DownloadError, match="kept: run the cell again") as caught:
        fetch(MODEL, quiet)
    assert "cut off" in caught.value.problem
    tries = transfer.TRIES
    assert hub.requests.count("GET model.safetensors") == tries
    left = len(WEIGHTS) // 2**tries  # each try brought half of what was missing
    assert len(WEIGHTS) - unfinished().stat().st_size == pytest.approx(left, abs=2)
    assert MODEL.cached_folder is None


def test_a_long_download_shows_how_far_it_is(hub, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("COURSE_QUIET", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    fetch(MODEL, quiet)
    assert "model.safetensors (MB): 0 of" in sys.stderr.getvalue()


def test_what_has_arrived_is_kept(hub):
    hub.cut = True
    with pytest.raises(DownloadError):
        fetch(MODEL, quiet)
    here = unfinished().stat().st_size
    hub.cut = False
    sent = []
    hub.instead = lambda content: sent.append(content) or content
    folder = fetch(MODEL, quiet)
    assert here > len(WEIGHTS) / 2 and len(sent) == 1
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not unfinished().exists()


def test_a_server_that_ignores_ranges_begins_anew_once(hub):
    hub.cut, hub.ranges = True, False
    with pytest.raises(DownloadError, match="cut off"):
        fetch(MODEL, quiet)
    assert hub.requests.count("GET model.safetensors") == 2


def test_a_server_that_ignores_ranges_can_finish(hub):
    hub.cut = True
    with pytest.raises(DownloadError):
        fetch(MODEL, quiet)
    hub.cut = hub.ranges = False
    assert (fetch(MODEL, quiet) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("way", ["silence", "drip", "slow headers"])
def test_a_stalled_transfer_is_told(hub, monkeypatch, way):
    monkeypatch.setattr(transfer, "SILENCE", 0.3)
    assert transfer.CONNECTING + transfer.SILENCE <= 15
    if way == "slow headers":
        monkeypatch.setattr(transfer, "CONNECTING", 0.1)
        hub.slow_headers = True
        way = "drip"
    released = threading.Event()
    setattr(hub, way, released)
    with pytest.raises(DownloadError, match="stalled"):
        fetch(MODEL, quiet)
    released.set()
    assert len(hub.requests) == 1


def test_a_name_look_up_that_hangs_is_told(hub, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(transfer, "SILENCE", 0.1)
    monkeypatch.setattr(transfer, "CONNECTING", 0.1)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: released.wait(10) or [])
    with pytest.raises(DownloadError, match="stalled"):
        fetch(MODEL, quiet)
    released.set()


@pytest.mark.parametrize("content", [WEIGHTS[:-1], WEIGHTS[::-1], WEIGHTS + b"more"], ids=["short", "wrong", "long"])
def test_a_download_that_was_never_checked_is_not_accepted(hub, content):
    """As a kernel that is killed between the last byte and the comparison leaves it."""
    unfinished().parent.mkdir(parents=True)
    unfinished().write_bytes(content)
    assert (fetch(MODEL, quiet) / "model.safetensors").read_bytes() == WEIGHTS


def test_another_process_at_the_same_file_is_told(hub, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(downloads, "QUEUE", 0.1)
    unfinished().parent.mkdir(parents=True)
    with FileLock(unfinished().with_suffix(".lock")), pytest.raises(DownloadError, match="Wait until it is done"):
        fetch(MODEL, quiet)


# ---------------------------------------------------------------- a hub that lies


@pytest.mark.parametrize(
    "instead",
    [
        lambda content: content[:-1] + b"!",
        lambda content: content[:-1],
        lambda content: content + b"!",
        lambda content: b"",
        lambda content: b"<!DOCTYPE html><title>Log in</title>",
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 102400\n",
        lambda content: content[::-1],
        lambda content: content * 3,
    ],
    ids=["a bit", "short", "long", "empty", "page", "pointer", "backwards", "thrice"],
)
def test_only_what_the_catalogue_names_is_accepted(hub, tmp_path, instead):
    hub.instead = instead
    before = elsewhere(tmp_path)
    with pytest.raises(DownloadError):
        fetch(MODEL, quiet)
    assert MODEL.cached_folder is None and not (MODEL.folder / "model.safetensors").exists()
    assert elsewhere(tmp_path) == before
    hub.instead = None
    assert (fetch(MODEL, quiet) / "model.safetensors").read_bytes() == WEIGHTS


OUT = "../../../../thesis.txt"
LIES = [
    {"ETag": f'"{OUT}"', "X-Linked-Etag": f'"{OUT}"', "X-Repo-Commit": OUT},
    {"ETag": '"/etc/passwd"', "X-Repo-Commit": "/tmp"},
    {"ETag": "", "X-Linked-Etag": "", "X-Linked-Size": "-1"},
    {"ETag": '"' + "0" * 64 + '"', "X-Linked-Etag": '"' + "0" * 64 + '"'},
    {"Content-Disposition": f"attachment; filename={OUT}"},
    {"X-Xet-Hash": OUT, "X-Xet-Refresh-Route": "http://192.0.2.1/"},
    {"Content-Length": "5"},
    {"Content-Length": "999999999999"},
    {"Content-Length": "x"},
    {"Content-Encoding": "gzip"},
    {"Content-Range": "bytes 0-5/5"},
    {"Location": "file:///etc/passwd"},
    {"X-Padding": "x" * 200_000},
]


@pytest.mark.parametrize("lies", LIES, ids=lambda lies: next(iter(lies)))
def test_nothing_that_a_server_says_becomes_a_path(hub, tmp_path, monkeypatch, lies):
    monkeypatch.setattr(transfer, "SILENCE", 0.5)
    hub.lies = lies
    before = elsewhere(tmp_path)
    for hub.status in (206, 302, 204, 0):
        with suppress(DownloadError):  # refused in a sentence, or the right file after all
            fetch(MODEL, quiet)
            assert {path.name: path.read_bytes() for path in MODEL.folder.iterdir()} == FILES
    assert elsewhere(tmp_path) == before == {"thesis.txt": "three years of work"}
    names = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    known = {*FILES, *(f"{file.sha256}{end}" for file in MODEL.files for end in (".incomplete", ".lock"))}
    assert set(names) <= known


def test_a_redirect_to_an_address_beyond_is_followed_and_still_compared(hub):
    with serving() as other:
        other.files["elsewhere/model"] = {"config.json": b"{}"}
        hub.status, hub.lies = 302, {"Location": f"{other.address}/elsewhere/model/resolve/main/config.json"}
        with pytest.raises(DownloadError):
            fetch(MODEL, quiet)
        assert other.requests and other.authorizations == [""] * len(other.requests)


def test_a_redirect_without_end_is_a_sentence(hub):
    hub.status, hub.lies = 302, {"Location": f"{hub.address}/{MODEL.id}/resolve/main/config.json"}
    with pytest.raises(DownloadError, match="Run the cell again"):
        fetch(MODEL, quiet)
    assert len(hub.requests) < 10


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("link", ["models--Qwen--Qwen2.5-0.5B-Instruct", "blobs", "snapshots", "part", "lock"])
def test_a_link_that_leads_out_of_the_cache_is_not_followed(hub, tmp_path, link):
    home = MODEL.folder.parent.parent
    places = {
        home.name: home,
        "blobs": home / "blobs",
        "snapshots": home / "snapshots",
        "part": unfinished(),
        "lock": unfinished().with_suffix(".lock"),
    }
    target = tmp_path / "thesis.txt" if link in ("part", "lock") else tmp_path / "documents"
    if link not in ("part", "lock"):
        target.mkdir()
        (target / "letter.txt").write_text("Dear reader")
    before = elsewhere(tmp_path)
    places[link].parent.mkdir(parents=True, exist_ok=True)
    places[link].symlink_to(target)
    with pytest.raises(DownloadError, match="Remove"):
        fetch(MODEL, quiet)
    assert elsewhere(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_left_alone(hub, tmp_path):
    MODEL.folder.mkdir(parents=True)
    (MODEL.folder / "model.safetensors").symlink_to(tmp_path / "thesis.txt")
    assert (fetch(MODEL, quiet) / "model.safetensors").read_bytes() == WEIGHTS
    assert elsewhere(tmp_path) == {"thesis.txt": "three years of work"}


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_cache_that_huggingface_hub_filled_is_read(hub):
    """Its snapshots are links to `blobs`."""
    blobs = MODEL.folder.parent.parent / "blobs"
    for place in (blobs, MODEL.folder):
        place.mkdir(parents=True)
    for file in MODEL.files:
        (blobs / file.sha256).write_bytes(FILES[file.name])
        (MODEL.folder / file.name).symlink_to(blobs / file.sha256)
    assert fetch(MODEL, quiet) == MODEL.cached_folder and hub.requests == []


def test_what_the_catalogue_does_not_name_is_not_in_the_folder(hub):
    """A shared cache may hold an adapter, a template, code: libraries read what they find beside the weights."""
    MODEL.folder.mkdir(parents=True)
    (MODEL.folder / "additional_chat_templates").mkdir()
    for name in ("adapter_config.json", "chat_template.jinja", "own.py"):
        (MODEL.folder / name).write_text("{}")
    for _ in range(2):
        folder = fetch(MODEL, quiet)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert (MODEL.folder / "own.py").exists()  # it is not ours to remove


def test_huggingface_hub_reads_what_was_downloaded(hub):
    from huggingface_hub import try_to_load_from_cache

    folder = fetch(MODEL, quiet)
    found = try_to_load_from_cache(MODEL.id, "config.json", folder.parents[2], MODEL.revision)
    assert Path(found).read_bytes() == FILES["config.json"]


def test_a_model_without_checksums_is_not_downloaded(hub):
    with pytest.raises(DownloadError, match="names no files"):
        fetch(dataclasses.replace(MODEL, files=()), quiet)
    assert hub.requests == []


# ---------------------------------------------------------------- this machine


def test_too_little_disk_is_told_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 74_000_000))
    with pytest.raises(DownloadError, match="Free 1.0 GB there, or set HF_HOME") as caught:
        fetch(MODEL, quiet)
    assert "disk is full" in caught.value.problem and "1.1 GB that stay free" in caught.value.problem
    assert hub.requests == []


def test_a_disk_that_fills_up_on_the_way(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DownloadError, match="Free 1.1 GB there") as caught:
        fetch(MODEL, quiet)
    assert "disk is full" in caught.value.problem


def test_a_cache_that_cannot_be_written(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "thesis.txt" / "cache"))
    with pytest.raises(DownloadError, match="folder that you can write to"):
        fetch(MODEL, quiet)


def test_no_connection(hub, monkeypatch, impatient):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(DownloadError, match="Check the network") as caught:
        fetch(MODEL, quiet)
    assert "no connection to http://127.0.0.1:9" in caught.value.problem
    assert caught.value.network is False


def test_closed_sockets_read_as_no_connection(hub, monkeypatch, impatient):
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")
    with pytest.raises(DownloadError) as caught:
        fetch(MODEL, quiet)
    assert "no connection" in caught.value.problem


NONSENSE = [
    "nonsense",
    "huggingface.co",
    "ftp://x",
    "https://",
    "http://127.0.0.1:x",
    "http://[::1",
    "https://a b",
    "/x",
]


@pytest.mark.parametrize("text", NONSENSE)
def test_an_address_that_is_none_is_told_with_its_form(hub, monkeypatch, text):
    monkeypatch.setenv("HF_ENDPOINT", text)
    with pytest.raises(DownloadError, match="an address like https://huggingface.co") as caught:
        fetch(MODEL, quiet)
    assert repr(text.rstrip("/")) in caught.value.problem and caught.value.network is False


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="the package is installed here")
def test_a_socks_proxy_without_its_package_names_the_package(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("ALL_PROXY", "socks5://name:secret@127.0.0.1:1080")
    with pytest.raises(DownloadError, match='"socksio"') as caught:
        fetch(MODEL, quiet)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_none_is_told(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("HTTPS_PROXY", "carrier-pigeon://roof:1")
    with pytest.raises(DownloadError, match="It looks like http://host:port"):
        fetch(MODEL, quiet)


def test_a_token_does_not_travel_unencrypted(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with transfer.connected() as client:
        assert "Authorization" not in client.headers
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    with transfer.connected() as client:
        assert client.headers["Authorization"] == "Bearer hf_secret"


@pytest.mark.parametrize("variable", ["COURSE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match="Unset COURSE_OFFLINE") as caught:
        fetch(MODEL, quiet)
    assert caught.value.network is False and hub.requests == []


def test_offline_still_reads_the_cache(hub, monkeypatch):
    folder = fetch(MODEL, quiet)
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert fetch(MODEL, quiet) == folder


def test_a_certificate_and_a_proxy_are_told_with_their_cures():
    import httpx

    untrusted = transfer.explain(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"))
    assert "certificate of" in untrusted.problem and "SSL_CERT_FILE" in untrusted.cure and not untrusted.network
    refused = transfer.explain(httpx.ProxyError("407 Proxy Authentication Required"))
    assert "proxy" in refused.problem and "HTTPS_PROXY" in refused.cure and not refused.network


def test_an_unknown_failure_is_passed_on_in_words():
    problem = transfer.explain(RuntimeError("something new\nwith details"))
    assert problem.problem == "RuntimeError: something new"


# ---------------------------------------------------------------- the catalogue


def test_a_maintainer_measures_the_files_of_a_new_model(hub):
    import tomllib

    lines = catalogue.pin(MODEL.id, MODEL.revision, list(FILES))
    made = tomllib.loads(f"[[model]]\n{lines}")["model"][0]["files"]
    assert made == {file.name: {"size": file.size, "sha256": file.sha256} for file in MODEL.files}


def test_measuring_what_the_hub_does_not_have_is_a_sentence(hub):
    with pytest.raises(DownloadError, match="404"):
        catalogue.pin(MODEL.id, MODEL.revision, ["nothing.json"])
