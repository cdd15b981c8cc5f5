"""llama.cpp's own server, from the package xllamacpp, as a program of its own.

    LLAMA_API_KEY=... python -m course_utils.serving.llama_server -m FILE.gguf --alias NAME --port 8080

It takes the options of llama.cpp's program `llama-server` that the course uses, and stands in where that is missing.
"""

import argparse
import os
import threading
from collections.abc import Sequence
from typing import Any

from course_utils.serving.settings import LLAMA_KEY, LOOPBACK


def settings_for(asked: argparse.Namespace) -> Any:
    """llama.cpp's settings: loopback only, and a key."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = asked.model
    settings.model_alias = {asked.alias}
    settings.hostnames = [asked.host]
    settings.port = asked.port
    settings.n_ctx = asked.ctx_size
    settings.n_parallel = asked.parallel
    settings.api_keys = [os.environ[LLAMA_KEY]]
    settings.endpoint_metrics = True
    settings.ui = False
    settings.cors_origins = ""  # no web page elsewhere may ask
    for cores in (settings.cpuparams, settings.cpuparams_batch):
        cores.n_threads = asked.threads or cores.n_threads
    return settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--threads-batch", type=int, default=0)
    asked = parser.parse_args(arguments)
    import xllamacpp

    server = xllamacpp.Server(settings_for(asked))
    print("listening on", server.listening_address, flush=True)
    threading.Event().wait()  # llama.cpp serves in threads of its own until a signal ends the process


if __name__ == "__main__":
    main()
