"""Serving a model yourself: start a server, ask it, measure it, and leave nothing running.

    with serve(MODELS / "prisma-lm") as server:
        server.client().chat.completions.create(model=server.model, messages=[...])

The embedded server is the one of `transformers serve`, with a `Gate` in front of every request. It runs as a program
(`python -m course_utils.serving`) under a keeper, which ends it when the notebook is gone.
"""

import importlib
from typing import Any

PLACES = {
    "engines": ("PORTS", "Backend", "ask_all", "find_backends", "knock"),
    "gate": ("Gate",),
    "lifecycle": (
        *("Server", "ServerError", "client", "free_port", "port_is_free"),
        *("start", "serve", "running", "stop_all", "end_tree", "choose_folder"),
    ),
    "load": ("Load", "burst"),
}
__all__ = sorted(name for names in PLACES.values() for name in names)


def __getattr__(name: str) -> Any:
    """Each name is imported on first use: a keeper lives as long as its server, and needs none of them."""
    for module, names in PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
