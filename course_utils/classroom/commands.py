"""The `course` commands for classes. Each calls one function; heavy imports stand inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from course_utils import settings

app = typer.Typer()


@app.command()
def slides(
    units: Annotated[list[str], typer.Argument(help="7.1 (its core notebooks), 7.1_lab, a notebook's name.")],
    out: Annotated[Path | None, typer.Option(help="The folder; build/slides if left out.")] = None,
) -> None:
    """Make slides of notebooks: HTML and PDF.

    Each notebook becomes one page that needs no network, with speaker notes, and a PDF where a browser can print it.
    """
    from course_utils.classroom import slides
    from course_utils.cli import interruptible, plain_errors

    with plain_errors(), interruptible():
        for path in slides.make(units, out or settings.BUILD / "slides", say=typer.echo):
            typer.echo(path)


@app.command()
def site(
    units: Annotated[list[str] | None, typer.Argument(help="Only these notebooks; all if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder, for the site alone; build/site if left out.")] = None,
) -> None:
    """Build the whole course as a website.

    Pages of all notebooks with their results, and of the teaching notes; they load nothing from elsewhere.
    """
    from course_utils.classroom import site
    from course_utils.cli import interruptible, plain_errors

    with plain_errors(), interruptible():
        start = site.build(out or settings.BUILD / "site", units)
    typer.echo(f"Open {start} in a browser, or put the folder onto any web server.")


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
