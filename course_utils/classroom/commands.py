"""The `course` commands for classes. Each calls one function; what is heavy is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def quizzes(
    folder: Annotated[Path, typer.Argument(help="Where the files go; it is made where it is missing.")],
    unit: Annotated[str, typer.Option(help="7.1, 7.2 ...; every unit if left out.")] = "",
) -> None:
    """Write the quizzes for a learning platform.

    QTI 2.1 (Canvas, Blackboard, OpenOlat) and Moodle XML, each with the explanation of every answer.
    """
    from course_utils.classroom import quiz_exports
    from course_utils.cli import plain_errors

    with plain_errors():
        for path in quiz_exports.write(folder, unit):
            typer.echo(f"written: {path}")
