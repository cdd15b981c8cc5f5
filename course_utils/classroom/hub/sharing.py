"""One model server for a small room: llama.cpp, behind the course's gate, with a key and a fair share for each student.

It listens on loopback: the students' servers run on the same machine, as on a small hub. A larger room has vLLM and
LiteLLM (README.md).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.serving import lifecycle
from course_utils.serving.clients import Turns
from course_utils.serving.gate import Gate, UsageFile
from course_utils.serving.settings import LOOPBACK
from course_utils.serving.upstream import Upstream

if TYPE_CHECKING:
    from uvicorn import Server as WebServer

EACH = 4  # requests of one student in work, those that wait for their turn included


def gate_for(
    engine: lifecycle.Server, names: Mapping[str, str], places: int, per_minute: int, usage: Path | None = None
) -> Gate:
    """The gate in front of llama.cpp: `places` answers at once, shared fairly among the `names` (by hash of key)."""
    log = UsageFile(usage) if usage else lambda row: None
    return Gate(
        Upstream(engine.url, engine.key),
        names,
        engine.model,
        per_minute=per_minute,
        each_at_once=EACH,
        at_once=EACH * len(names),  # nobody is turned away because of what others ask
        turns=Turns(places),
        log=log,
    )


def share(
    model: Path,
    names: Mapping[str, str],
    *,
    port: int,
    places: int,
    per_minute: int,
    usage: Path | None,
) -> None:
    """Serve the GGUF file `model` on loopback until stopped. `usage` takes a row for each answer, with the name.

    ValueError if the port is taken or a limit is none, OSError if `usage` can't be written, ServerError if llama.cpp
    cannot serve the file.
    """
    if per_minute < 1:
        raise ValueError(f"per_minute is {per_minute}, and must be 1 or more.")
    if not lifecycle.port_is_free(port):
        raise ValueError(f"Port {port} is in use: stop what listens there, or name another.")
    if usage:
        usage.open("a", encoding="utf-8").close()  # or every answer would end with an error
    with lifecycle.serve(model, backend="llama.cpp", users=places) as engine:
        gate = gate_for(engine, names, places, per_minute, usage)
        print(f"{engine.model} for {len(names)} students at http://{LOOPBACK}:{port}/v1, {places} answers at once.")
        web_server(gate, port).run()


def web_server(gate: Gate, port: int) -> "WebServer":
    """The web server of the gate; it closes connections that are held without asking."""
    import uvicorn

    from course_utils.serving.server import Connection, allow_files

    Connection.most_idle = allow_files() // 2
    config = uvicorn.Config(
        gate, host=LOOPBACK, port=port, http=Connection, log_level="warning", timeout_graceful_shutdown=2
    )
    return uvicorn.Server(config)
