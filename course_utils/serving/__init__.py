"""Serving a model yourself: start a server, ask it, measure it, and leave nothing running.

    with serve(MODELS / "prisma-lm") as server:
        server.client().chat.completions.create(model=server.model, messages=[...])

The embedded server is the one of `transformers serve`, with a `Gate` in front of every request. It runs as a program
(`python -m course_utils.serving`) under a keeper, which ends it when the notebook is gone.
"""

from course_utils.serving.engines import PORTS, Backend, ask_all, find_backends, knock
from course_utils.serving.gate import Gate
from course_utils.serving.lifecycle import (
    Server,
    ServerError,
    choose_folder,
    client,
    end_tree,
    free_port,
    port_is_free,
    running,
    serve,
    start,
    stop_all,
)
from course_utils.serving.load import Load, burst

__all__ = [
    "PORTS",
    "Backend",
    "Gate",
    "Load",
    "Server",
    "ServerError",
    "ask_all",
    "burst",
    "choose_folder",
    "client",
    "end_tree",
    "find_backends",
    "free_port",
    "knock",
    "port_is_free",
    "running",
    "serve",
    "start",
    "stop_all",
]
