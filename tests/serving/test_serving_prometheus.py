"""A real Prometheus reads the server's metrics where it is installed; elsewhere the course says what is missing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from course_utils import serving
from course_utils.serving import prometheus
from course_utils.settings import MODELS

STAND_IN = SimpleNamespace(port=4711, model="prisma-lm", key="the key")


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setattr(prometheus.shutil, "which", lambda name: None)
    assert not prometheus.is_installed()
    with pytest.raises(FileNotFoundError, match="package is `prometheus`"), prometheus.watch(STAND_IN):
        pass


def test_the_configuration_names_the_server_and_hides_the_key():
    written = prometheus.configuration(STAND_IN, Path("key"), every=2)
    assert "the key" not in written
    (job,) = json.loads(written)["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:4711"]}]
    assert job["authorization"]["credentials_file"] == "key"


@pytest.mark.skipif(not prometheus.is_installed(), reason="Prometheus is not installed here")
def test_prometheus_reads_the_server_and_goes():
    with serving.serve(MODELS / "prisma-lm", timeout=600) as server:
        with prometheus.watch(server) as watcher:
            server.client().completions.create(model=server.model, prompt="a red cube", max_tokens=4)
            watcher.wait_for_scrapes()
            ((_, tokens),) = watcher.ask("server_tokens_total")
            assert tokens >= 4
            with pytest.raises(ValueError, match="refuses"):
                watcher.ask("(((")
            port = int(watcher.url.rsplit(":", 1)[1])
        assert serving.port_is_free(port) and watcher.process.poll() is not None
