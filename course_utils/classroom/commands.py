"""The `course` commands for classes. Each calls one function; heavy imports stand inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from course_utils import settings
from course_utils.classroom.hub import PER_MINUTE

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
            results = grading.grade(folder, out, at_once, seed, lambda words: line.update(Text(words)), screen.print)
        gradebook.write(results, out, csv)
        feedback.write(results, out)
    screen.print(gradebook.table(results))
    typer.echo("\n".join(gradebook.teach(results)))
    typer.echo(f"Tables and pages are in {out}. Fresh examples were drawn with --seed {grading.kept_seed(out)}.")


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


certificate = typer.Typer(help="Certificates that a third party can check offline.")
app.add_typer(certificate, name="certificate")


@certificate.command("keys")
def certificate_keys(
    folder: Annotated[Path, typer.Argument(help="Where the two keys go: a place that only you can read.")],
    password: Annotated[bool, typer.Option("--password", help="Ask for one, and store the key encrypted.")] = False,
) -> None:
    """Make the issuer's keys, once.

    The private key signs and stays with you. The public key goes where everybody finds it, such as your site.
    """
    from course_utils.classroom import certificates
    from course_utils.cli import plain_errors

    with plain_errors():
        secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if password else ""
        private, public = certificates.make_keys(folder, secret)
        key = certificates.fingerprint(certificates.public_key(public))
    typer.echo(f"Keep to yourself, with a copy elsewhere: {private}")
    typer.echo(f"Publish: {public} (fingerprint {key})")


@certificate.command("make")
def certificate_make(
    results: Annotated[Path, typer.Argument(help="The folder that `course grade` has written.")],
    key: Annotated[Path, typer.Option(help="Your private key.")],
    issuer: Annotated[str, typer.Option(help="Who certifies: your name, or the school's.")],
    unit: Annotated[str, typer.Option(help="7.1, 7.2 ...; all units if left out.")] = "all",
    out: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("certificates"),
) -> None:
    """Write a certificate for each student with points.

    It holds name, unit, points, date, issuer and the course's version, all of it signed.
    """
    from course_utils.classroom import certificates
    from course_utils.cli import plain_errors

    with plain_errors():
        locked = certificates.is_locked(key)
        secret = typer.prompt("Password of the key", hide_input=True, err=True) if locked else ""
        private = certificates.private_key(key, secret)
        if certificates.open_to_others(key):
            typer.echo(f"Others on this machine can read {key}: close it with `chmod 600 {key}`.", err=True)
        graded = certificates.read_results(results)
        certified = certificates.statements(graded, unit, issuer, private.public_key())
        paths = certificates.write(certified, private, out)
    for path in paths:
        typer.echo(f"written: {path}")
    without = len(graded) - len(paths)
    if without:
        typer.echo(f"{without} without points: no certificate.")


@certificate.command("check")
def certificate_check(
    file: Annotated[Path, typer.Argument(help="The certificate.")],
    key: Annotated[Path, typer.Option(help="The issuer's public key, from the issuer's own place.")],
    unit: Annotated[str, typer.Option(help="What it should be for: 7.1 ..., or all.")] = "",
) -> None:
    """Tell whether a certificate is real, offline."""
    from course_utils.classroom import certificates
    from course_utils.cli import plain_errors

    with plain_errors():
        statement = certificates.check(file, certificates.public_key(key), unit)
    typer.echo(f"Real. {statement}")


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

    with plain_disk_errors(), plain_errors(), interruptible():
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

    with plain_disk_errors(), plain_errors(), interruptible():
        start = site.build(out or settings.BUILD / "site", units)
    typer.echo(f"Open {start} in a browser, or put the folder onto any web server.")


@app.command()
def keys(
    students: Annotated[Path, typer.Argument(help="A text file: in each line a name, as in the hub.")],
    to: Annotated[Path, typer.Option(help="The folder of the keys; keep it out of any repository.")],
) -> None:
    """A key of the class's model server for each student; who has one keeps it."""
    from course_utils.classroom.hub import keys as key_files
    from course_utils.cli import plain_errors

    with plain_errors(), plain_disk_errors():
        made, gone = key_files.make_keys(key_files.read_names(students), to)
    typer.echo(f"{made} new keys, {gone} taken back. {to / key_files.PLAIN} holds the keys, for the hub and to hand")
    typer.echo(f"out: keep it to yourself. {to / key_files.HASHED} holds their hashes, for the model server.")


@app.command()
def share(
    model: Annotated[Path, typer.Argument(help="A GGUF file.")],
    keys: Annotated[Path, typer.Option(help="keys.json, as `course keys` wrote it.")],
    port: int = 8010,
    places: Annotated[int, typer.Option(help="Answers at once; others wait for their turn.")] = 4,
    per_minute: Annotated[int, typer.Option(help="Requests of one student in a minute.")] = PER_MINUTE,
    usage: Annotated[Path | None, typer.Option(help="A file for a row about each answer, without content.")] = None,
) -> None:
    """Serve one model to a class, on this machine's loopback, until Ctrl-C."""
    from course_utils.classroom.hub import sharing
    from course_utils.cli import interruptible, plain_errors
    from course_utils.serving import ServerError
    from course_utils.serving.clients import read_keys

    with plain_disk_errors(), plain_errors(), interruptible():
        try:
            names = read_keys(keys)
            sharing.share(model, names, port=port, places=places, per_minute=per_minute, usage=usage)
        except ServerError as error:
            raise ValueError(str(error)) from None
