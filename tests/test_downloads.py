import errno
import re
import shutil

import pytest
from hub import serving

from course_utils import catalogue, downloads
from course_utils.catalogue import Model
from course_utils.downloads import DownloadError, fetch

MODEL = Model(
    role="chat",
    tier="small",
    id="Qwen/Qwen2.5-0.5B-Instruct",
    licence="Apache-2.0",
    memory_gb=1,
    limits="tiny",
    revision="7ae557604adf67be50417f59c2c2f167def9a775",
    files=("config.json", "model.safetensors"),
    download_gb=0.1,
)
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 400}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback with one model, and an empty cache."""
    from huggingface_hub import constants

    with serving() as server:
        server.files[MODEL.id] = FILES
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture
def impatient(monkeypatch):
    """Waiting takes no time; the list holds for how long would have been waited."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


def test_files_arrive_whole_and_are_announced(hub):
    said = []
    folder = fetch(MODEL, said.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert folder == MODEL.cached_folder
    assert len(said) == 1
    for part in (MODEL.id, "0.00 GB", "licence Apache-2.0", hub.address):
        assert part in said[0]


def test_it_is_announced_before_it_starts(hub):
    seen = []
    fetch(MODEL, lambda text: seen.extend(hub.requests))
    assert not [request for request in seen if request.startswith("GET")]


def test_the_second_time_nothing_is_asked(hub):
    first = fetch(MODEL, lambda text: None)
    hub.requests.clear()
    said = []
    assert fetch(MODEL, said.append) == first
    assert hub.requests == [] and said == []


def test_only_the_listed_files_are_asked_for(hub):
    fetch(MODEL, lambda text: None)
    assert {request.split()[1] for request in hub.requests} == set(MODEL.files)


@pytest.mark.parametrize(
    "status, headers, problem, cure",
    [
        (401, {}, "401: it wants a login", "HF_TOKEN"),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "403: it denies access; the model may be gated",
            "accept its terms",
        ),
        (404, {"X-Error-Code": "RepoNotFound"}, "404: it has no Qwen/Qwen2.5-0.5B-Instruct", "git pull"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "revision 7ae55760", "HF_ENDPOINT"),
        (429, {"Retry-After": "120"}, "429, too many requests .* wait 120 s", "shared HF_HOME"),
        (429, {}, "429, too many requests from this network address$", "Wait and run the cell again"),
        (503, {}, "answers 503", "try again later"),
    ],
)
def test_refusals_are_explained_at_once(hub, impatient, status, headers, problem, cure):
    hub.refuse = (status, headers)
    with pytest.raises(DownloadError, match=cure) as caught:
        fetch(MODEL, lambda text: None)
    assert re.search(problem, caught.value.problem)
    assert caught.value.network is True
    assert impatient == []  # no retries behind the reader's back
    assert MODEL.cached_folder is None


def test_a_short_wait_is_waited_out(hub, impatient):
    hub.refuse, hub.refusals = (429, {"Retry-After": "7"}), 1
    said = []
    assert fetch(MODEL, said.append) == MODEL.cached_folder
    assert impatient == [7]
    assert "asks to wait 7 s" in said[0]


def test_a_short_wait_is_waited_out_only_once(hub, impatient):
    hub.refuse = (429, {"Retry-After": "7"})
    with pytest.raises(DownloadError, match="429"):
        fetch(MODEL, lambda text: None)
    assert impatient == [7]


def test_a_cut_connection(hub, impatient):
    hub.cut = True
    with pytest.raises(DownloadError) as caught:
        fetch(MODEL, lambda text: None)
    assert "cut off" in caught.value.problem
    assert MODEL.cached_folder is None


def test_after_a_cut_it_can_be_finished(hub, impatient):
    hub.cut = True
    with pytest.raises(DownloadError):
        fetch(MODEL, lambda text: None)
    hub.cut = False
    folder = fetch(MODEL, lambda text: None)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_wrong_checksum_is_noticed_and_deleted(hub):
    hub.corrupt = True
    with pytest.raises(DownloadError, match="download it anew") as caught:
        fetch(MODEL, lambda text: None)
    assert "model.safetensors arrived damaged" in caught.value.problem
    assert MODEL.cached_folder is None
    hub.corrupt = False
    folder = fetch(MODEL, lambda text: None)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_too_little_disk_is_told_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DownloadError, match="HF_HOME") as caught:
        fetch(MODEL, lambda text: None)
    assert "disk is full" in caught.value.problem
    assert not [request for request in hub.requests if request.startswith("GET")]


def test_a_disk_that_fills_up_on_the_way(hub, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(DownloadError) as caught:
        fetch(MODEL, lambda text: None)
    assert "disk is full" in caught.value.problem


def test_a_cache_that_cannot_be_written(hub, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(downloads, "_check_disk", denied)
    with pytest.raises(DownloadError, match="folder that you can write to"):
        fetch(MODEL, lambda text: None)


def test_no_connection(hub, monkeypatch, impatient):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(DownloadError, match="Check the network") as caught:
        fetch(MODEL, lambda text: None)
    assert "no connection to http://127.0.0.1:9" in caught.value.problem
    assert caught.value.network is False


def test_closed_sockets_read_as_no_connection(hub, monkeypatch, impatient):
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1")
    with pytest.raises(DownloadError) as caught:
        fetch(MODEL, lambda text: None)
    assert "no connection" in caught.value.problem


@pytest.mark.parametrize("variable", ["COURSE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DownloadError, match="Unset COURSE_OFFLINE") as caught:
        fetch(MODEL, lambda text: None)
    assert caught.value.network is False and hub.requests == []


def test_offline_still_reads_the_cache(hub, monkeypatch):
    folder = fetch(MODEL, lambda text: None)
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert fetch(MODEL, lambda text: None) == folder


def test_an_unknown_failure_is_passed_on_in_words():
    problem = downloads.explain(RuntimeError("something new\nwith details"), catalogue.find("chat", "small"))
    assert problem.problem == "RuntimeError: something new"
