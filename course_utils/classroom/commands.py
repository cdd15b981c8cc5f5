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

    with plain_errors():
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


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="What students handed in: files, folders, zip files, or one zip.")],
    out: Annotated[Path | None, typer.Option(help="Where the results go; beside FOLDER if left out.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write files for Canvas, Moodle and nbgrader.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, max=64, help="Submissions at once; one core is left free.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the fresh examples; kept in --out if left out.")] = None,
) -> None:
    """Grade notebooks: a table of points, and a page of feedback for each student.

    Each submission is judged in a process of its own, without network. A run that was interrupted goes on where it
    stopped, and what has not changed since is not judged again.
    """
    from rich.text import Text

    from course_utils.classroom.grading import feedback, gradebook, grading
    from course_utils.cli import console, interruptible, plain_errors

    screen = console()
    with plain_errors(), interruptible():
        out = out or folder.resolve().with_name(f"{folder.resolve().stem}-graded")
        with screen.status("Reading what was handed in ...") as line:
            at_once = jobs or grading.default_jobs()
            results = grading.grade(folder, out, at_once, seed, lambda words: line.update(Text(words)))
        gradebook.write(results, out, csv)
        feedback.write(results, out)
    screen.print(gradebook.table(results))
    typer.echo(f"Tables and pages are in {out}. Fresh examples were drawn with --seed {grading.kept_seed(out)}.")
