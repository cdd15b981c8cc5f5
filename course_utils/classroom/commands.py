"""The `course` commands for classes. Each calls one function; what is heavy is imported by the command that needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@contextlib.contextmanager
def plain_disk_errors() -> Iterator[None]:
    """A disk that is full, or a folder that is closed, ends with one plain sentence and exit code 1."""
    try:
        yield
    except OSError as error:
        typer.echo(f"course: {error.filename or 'the disk'} can't be written to ({error.strerror})", err=True)
        raise typer.Exit(1) from error


@app.command()
def release(
    place: Annotated[Path, typer.Argument(help="A folder, which is added to, or a file.zip.")],
    unit: Annotated[str, typer.Option(help="7.1, and so on.")],
    solutions_from: Annotated[str, typer.Option(help="A day, 2027-03-01, before which `solution` waits.")] = "",
) -> None:
    """Write a unit's notebooks to hand out.

    Without outputs and solutions; the first cell brings exactly this version of the course. For nbgitpuller commit the
    folder to a repository; for Google Classroom or a learning platform name a file.zip.
    """
    from course_utils.classroom import release as handing_out
    from course_utils.cli import plain_errors

    with plain_errors(), plain_disk_errors():
        done = handing_out.release(unit, place, solutions_from)
    for note in done.pin.notes:
        typer.echo(f"Note: {note}", err=True)
    typer.echo(f"{len(done.files)} notebooks in {done.place}, pinned to {done.pin.name}:")
    for path in done.files:
        typer.echo(f"  {path}")


@app.command()
def bundle(
    name: Annotated[str, typer.Argument(help="Yours, as your instructor knows it.")],
    folder: Annotated[Path, typer.Option(help="Where your notebooks are.")] = Path("."),
) -> None:
    """Put your work into one file to hand in.

    NAME.course.json, written here: the code of the notebooks that you worked on, kept and quiz answers, progress,
    versions. It says what is in it, and sends nothing.
    """
    from course_utils.classroom import bundles
    from course_utils.cli import plain_errors

    with plain_errors(), plain_disk_errors():
        content, notes = bundles.collect(name, folder)
        path = bundles.write(content, Path.cwd())
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(str(content))
    typer.echo(f"Written: {path.name}, {path.stat().st_size:,} bytes. Nothing else is in it, and nothing was sent.")


@app.command()
def update(
    folder: Annotated[Path, typer.Argument(help="The course's folder, or the one that you unpacked.")] = Path("."),
    source: Annotated[Path | None, typer.Option("--from", help="A folder, zip or clone instead of the remote.")] = None,
) -> None:
    """Bring the newest course; your work stays.

    A notebook that you edited is not touched, and the new one is put beside it. What was replaced is in before-update.
    Run it again if it was interrupted.
    """
    from course_utils.classroom import updating
    from course_utils.cli import plain_errors

    with plain_errors():
        try:
            report = updating.update(folder, source, typer.echo)
        except updating.StoppedError as error:
            typer.echo(f"course: {error}", err=True)
            raise typer.Exit(1) from error
    typer.echo(str(report))
