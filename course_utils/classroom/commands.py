"""The `course` commands for classes. Each calls one function; what is heavy is imported by the one that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def keys(
    students: Annotated[Path, typer.Argument(help="A text file: in each line a name, as in the hub.")],
    to: Annotated[Path, typer.Option(help="The folder of the keys; keep it out of any repository.")],
) -> None:
    """A key of the class's model server for each student; who has one keeps it."""
    from course_utils.classroom.hub import keys as key_files
    from course_utils.cli import plain_errors

    with plain_errors():
        made, gone = key_files.make_keys(key_files.read_names(students), to)
    typer.echo(f"{made} new keys, {gone} taken back. {to / key_files.PLAIN} holds the keys, for the hub and to hand")
    typer.echo(f"out: keep it to yourself. {to / key_files.HASHED} holds their hashes, for the model server.")


@app.command()
def share(
    model: Annotated[Path, typer.Argument(help="A GGUF file.")],
    keys: Annotated[Path, typer.Option(help="keys.json, as `course keys` wrote it.")],
    port: int = 8010,
    places: Annotated[int, typer.Option(help="Answers at once; others wait for their turn.")] = 4,
    per_minute: Annotated[int, typer.Option(help="Requests of one student in a minute.")] = 30,
    usage: Annotated[Path | None, typer.Option(help="A file for a row about each answer, without content.")] = None,
) -> None:
    """Serve one model to a class, on this machine's loopback, until Ctrl-C."""
    from course_utils.classroom.hub import sharing
    from course_utils.cli import interruptible, plain_errors
    from course_utils.serving import ServerError
    from course_utils.serving.clients import read_keys

    with plain_errors(), interruptible():
        try:
            names = read_keys(keys)
            sharing.share(model, names, port=port, places=places, per_minute=per_minute, usage=usage)
        except ServerError as error:
            raise ValueError(str(error)) from None
