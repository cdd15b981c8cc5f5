"""Serving a model yourself: start a server, ask it, measure it, and leave nothing running.

    with serve(MODELS / "prisma-lm") as server:
        server.client().chat.completions.create(model=server.model, messages=[...])

The embedded server is the one of `transformers serve`, with a `Gate` in front of every request. It runs as a program
(`python -m course_utils.serving`) under a keeper, which ends it when the notebook is gone.
"""

import importlib
from typing import Any

PLACES = {
    "PORTS": "engines",
    "Backend": "engines",
    "Faulty": "faults",
    "ask_all": "engines",
    "find_backends": "engines",
    "knock": "engines",
    "Gate": "gate",
    "Server": "lifecycle",
    "ServerError": "lifecycle",
    "choose_folder": "lifecycle",
    "client": "lifecycle",
    "end_tree": "lifecycle",
    "free_port": "lifecycle",
    "port_is_free": "lifecycle",
    "running": "lifecycle",
    "serve": "lifecycle",
    "start": "lifecycle",
    "stop_all": "lifecycle",
    "Load": "load",
    "Outcome": "outcomes",
    "arrivals": "outcomes",
    "send": "outcomes",
    "burst": "load",
    "crowd": "load",
}
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    """Each name is imported on first use: a keeper lives as long as its server, and needs none of them."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{PLACES[name]}")
    return getattr(module, name)
