"""The `course` command. Whatever is heavy is imported by the command that needs it, so --help is instant."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from course_utils import __version__, settings
from course_utils.classroom import commands as classroom


class Command(typer.Typer):
    """The command as a whole. An output that takes no more (`| head -1`, a full disk) ends it without a traceback."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        settings.print_anywhere()
        settings.use_writable_caches()
        if sys.stdout is None:  # closed by the caller, who does not want to see anything
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open until the end
        try:
            try:
                super().__call__(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError as error:
            sys.exit(_no_output(error))


def _no_output(error: OSError) -> int:
    """The exit code after an output that failed, and a sentence where somebody may still read it."""
    # What Python has not yet written would fail again when it ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1  # the reader has seen enough, so there is nobody to talk to
    cure = "free some room, or send the output elsewhere" if error.errno == errno.ENOSPC else "check where it goes"
    with contextlib.suppress(OSError):
        typer.echo(f"course: the output could not be written ({error.strerror}); {cure}.", err=True)
    return 1


app = Command(
    name="course",
    help="Check this machine, run the units, train and measure the models of the course.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich would take longer to import than the rest together
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Units = Annotated[list[str] | None, typer.Argument(help="7.1, 7.1_lab, labs, a notebook; all units if left out.")]


def print_version(asked: bool) -> None:
    """What `course --version` says. It ends the command, whatever else was typed."""
    if asked:
        typer.echo(f"course {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")]


@app.callback()
def before_every_command(version: Version = False) -> None:
    """Options of `course` itself; typer has already acted on them when this runs."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Bad input ends with one plain sentence and exit code 2."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"course: {error}", err=True)
        raise typer.Exit(2) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end long work in order: kernels stopped, scratch folders gone; exit code 130."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("course: stopped.", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def show_json(content: Any) -> None:
    """Machine-readable output, and nothing else, on stdout. A number that is none (NaN, infinity) is null."""
    typer.echo(json.dumps(_finite(content), indent=1, ensure_ascii=_needs_escapes(), allow_nan=False))


def _needs_escapes() -> bool:
    """Whether stdout's encoding lacks letters: JSON has a way to write them all in ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return not encoding.lower().replace("-", "").startswith("utf")


def _finite(content: Any) -> Any:
    """`content` with None for every number that JSON has no word for."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def console() -> Any:
    """rich's console; wide enough for a table where the output goes to a file. Brackets in a text are no markup."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    return Console(width=width, markup=False, emoji=False)


def view(title: str, *headings: str) -> Any:
    """An empty rich table; a heading that starts with ">" is of a column of numbers."""
    from rich.table import Table

    table = Table(title=title)
    for heading in headings:
        numbers = heading.startswith(">")
        table.add_column(heading.removeprefix(">"), justify="right" if numbers else "left")
    return table


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine, with a cure for every gap.

    Python, packages, GPU, memory, disk, network, bundled models. Exit code 1 if the bundled tier can't run.
    """
    from course_utils import doctor as clinic

    checks = clinic.examine()
    if as_json:
        show_json(clinic.as_dict(checks))
    else:
        _show_checks(checks)
        bundled = "The bundled tier runs here." if clinic.healthy(checks) else "The bundled tier can't run yet."
        typer.echo(bundled)
    if not clinic.healthy(checks):
        raise typer.Exit(1)


def _show_checks(checks: list[Any]) -> None:
    """One row per check; the cure stands below its finding."""
    from rich.text import Text

    styles = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}
    table = view("course doctor", "check", "", "found")
    for check in checks:
        words = Text(check.found)
        words.append(f"\n-> {check.cure}", "bold") if check.cure else None
        table.add_row(check.name, Text(check.status, styles[check.status]), words)
    console().print(table)


@app.command()
def run(
    units: Units = None,
    tier: Annotated[str, typer.Option(help="bundled (offline), small or full.")] = "bundled",
    out: Annotated[Path | None, typer.Option(help="Where the HTML goes; build/run if left out.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=8, help="Notebooks at once, up to 3 GiB of memory each.")] = 1,
) -> None:
    """Run notebooks: time, memory, failures.

    Executes them from top to bottom, each in a fresh kernel, and keeps the pages as HTML. Exit code 1 if one
    failed. With --jobs 2 two run at once, but those that measure time still run alone.
    """
    from course_utils.workshop import runner

    screen = console()
    with plain_errors():
        paths = runner.resolve(units or [])
        if not paths:
            raise ValueError("there are no notebooks yet")
        runner.check_tier(tier)
        out = runner.output_folder(out)
    with interruptible():
        results = runner.run(paths, tier, out, console=screen, jobs=jobs)
    screen.print(runner.table(results))
    screen.print(f"Executed pages: {_near(out)}", soft_wrap=True)
    failed = [result for result in results if result.failure]
    for result in failed:
        screen.print(runner.describe(result), style="bold red", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _near(path: Path) -> str:
    """`path` as seen from here, if it is below."""
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


@app.command()
def lab() -> None:
    """Open JupyterLab on the start page.

    It is reachable from this machine only, and only with its token.
    """
    import importlib.util
    import subprocess

    from course_utils.settings import NOTEBOOKS, ROOT

    if importlib.util.find_spec("jupyterlab") is None:
        cure = 'python -m pip install -c constraints.txt -e ".[lab]"'
        typer.echo(f"course: JupyterLab isn't installed; {cure}", err=True)
        raise typer.Exit(1)
    start = next((page.name for page in sorted(NOTEBOOKS.glob("0_start_here*.ipynb"))), "")
    # Loopback and token are JupyterLab's defaults; they are named so that no configuration opens them up.
    options = ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={ROOT}"]
    # JupyterLab would ask a server of its own for news and updates.
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    options.append(f"--LabApp.default_url=/lab/tree/{NOTEBOOKS.name}/{start}".rstrip("/"))
    command = [sys.executable, "-m", "jupyterlab", *options]
    os.chdir(ROOT)
    if os.name == "nt":
        raise typer.Exit(subprocess.call(command))
    os.execv(command[0], command)  # JupyterLab takes our place, so that Ctrl-C and kill reach it and no other


@app.command()
def vram(
    name: Annotated[str | None, typer.Argument(help="mistral-7b, a config.json, a .gguf file, or owner/model.")] = None,
    model: Annotated[str | None, typer.Option(help="The same: a short name, a file, a folder, a hub id.")] = None,
    method: Annotated[str, typer.Option(help="inference-nf4, lora, qlora, full ...")] = "inference-fp16",
    seq: Annotated[int, typer.Option(help="Tokens per sequence.")] = 512,
    batch: Annotated[int, typer.Option(help="Sequences at a time.")] = 1,
    gpu: Annotated[str | None, typer.Option(help="A card such as t4; this machine if left out.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="No simulation.")] = False,
    as_json: Json = False,
) -> None:
    """Tell how much memory a model needs.

    Any model that transformers can build, and GGUF files: part by part, whether it fits on the card, the longest
    context that does, how fast text can come at most, and what to change. No weights are needed; of a model on the
    hub only the config.json is downloaded.
    """
    from course_utils.memory import report
    from course_utils.models import hardware
    from course_utils.models.transfer import DownloadError

    wanted = name or model
    if not wanted or (name and model):
        raise typer.BadParameter("Name one model, as in `course vram mistral-7b` or `--model mistral-7b`.")
    with plain_errors(), interruptible():
        place = gpu or hardware.detect("bundled")  # memory is all that counts, so the hub is not asked
        aloud = partial(typer.echo, err=True)
        question = report.Question(method, seq, batch, place, quick, largest=not as_json, say=aloud)
        try:
            answer = report.about(wanted, question)
        except DownloadError as error:
            raise ValueError(str(error)) from error
    if as_json:
        return show_json(answer.content)
    for table in answer.tables:
        _show_rows(table)
    for line in answer.lines:
        typer.echo(line)


def _show_rows(content: Any) -> None:
    """A table: words to the left, numbers to the right with two digits."""
    columns = list(content.rows[0])
    numbers = {column for column in columns if isinstance(content.rows[0][column], float)}
    table = view(content.title, *(f">{column}" if column in numbers else column for column in columns))
    for row in content.rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    console().print(table)


@app.command("dryrun-7b")
def dryrun_7b(
    model: Annotated[str, typer.Option(help="A shape: mistral-7b, qwen2.5-7b ...")] = "mistral-7b",
    layers: Annotated[int | None, typer.Option(help="Only so many layers.", min=1)] = None,
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 2,
    tokens: Annotated[int, typer.Option(help="Tokens in each step.", min=16)] = 256,
    plain: Annotated[bool, typer.Option("--plain", help="Then the same with plain PEFT and bitsandbytes.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a 7B shape with random weights.

    The full tier's own QLoRA code, with nothing to download: can this machine do it, how fast, in how much memory?
    On a CPU it needs 9 GB and minutes.
    """
    from dataclasses import asdict

    from course_utils.finetuning import dryrun, qlora
    from course_utils.models import hardware

    with plain_errors(), interruptible():
        try:
            machine = hardware.detect("bundled")  # nothing is downloaded, so the hub is not asked
            report = dryrun.run(machine, model, layers, steps, tokens, plain)
        except qlora.NotEnoughMemoryError as error:
            typer.echo(f"course: {error}", err=True)
            raise typer.Exit(1) from error
    return show_json(asdict(report)) if as_json else typer.echo(str(report))


app.add_typer(classroom.app)  # without a name: its commands stand among the others

bench = typer.Typer(help="Measure on this machine what the course predicts.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("vram")
def bench_vram(as_json: Json = False) -> None:
    """Measure peak memory beside formula and simulation.

    On an NVIDIA card: 7B models, by PyTorch's allocator. Without one: small models on the CPU.
    """
    import torch

    from course_utils.memory import measurement
    from course_utils.models import loaders

    loaders.quiet_libraries()
    cuda = torch.cuda.is_available()
    if cuda:
        place = f"{torch.cuda.get_device_name()}, by PyTorch's allocator"
    else:
        place = "CPU tensors, by PyTorch's allocator, and resident memory"
        typer.echo("No NVIDIA card: measuring CPU tensors instead, at a reduced size. That takes minutes.", err=True)
    with interruptible():
        found = measurement.compare(measurement.large_steps() if cuda else measurement.small_steps(), cuda)
    rows = [one.row() for one in found]
    if as_json:
        return show_json({"place": place, "peaks (GiB)": rows})
    numbers = ("layers", "tokens", "batch", "formula", "simulated", "measured", "resident", "error")
    columns = list(rows[0])
    table = view(f"Peak memory (GiB): {place}", *(f">{c}" if c in numbers else c for c in columns))
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    console().print(table)
    typer.echo(f"Simulation against measurement: at most {max(abs(one.error) for one in found):.1%} off.")


setup = typer.Typer(help="Set up programs that live in environments of their own.", no_args_is_help=True)
app.add_typer(setup, name="setup")


@setup.command("vllm")
def setup_vllm() -> None:
    """Install vLLM beside the course.

    It makes the folder .venv-vllm, which the notebooks find: 3.5 GB without an NVIDIA card, about 10 GB with one.
    """
    from course_utils.models import hardware
    from course_utils.serving import vllm_setup

    with plain_errors(), interruptible():
        try:
            vllm_setup.install(hardware.detect("bundled").device == "cuda", say=typer.echo)
        except vllm_setup.SetupError as error:
            typer.echo(f"course: {error}", err=True)
            raise typer.Exit(1) from error


@app.command()
def models(as_json: Json = False) -> None:
    """List the models and those chosen here."""
    from course_utils.models import catalogue, hardware, tiers

    with plain_errors():
        machine = hardware.detect()
        choices = {role: tiers.choose(role, machine) for role in catalogue.ROLES}
    if as_json:
        show_json([_model_row(model, choices[model.role]) for model in catalogue.models()])
        return
    screen = console()
    table = view("Models", "role", "tier", "model", ">download GB", ">memory GiB", "licence", "here")
    for model in catalogue.models():
        here = "cached" if model.cached_folder else "alternative" if model.alternative else ""
        if choices[model.role].model == model:
            here = "chosen"
        sizes = f"{model.download_gb:.2f}", f"{model.memory_gb:g}"
        table.add_row(model.role, model.tier, model.id, *sizes, model.licence, here)
    screen.print(table)
    for role, choice in choices.items():
        typer.echo(f"{role}: {choice.model.id} ({choice.tier}), {choice.reason}")
    typer.echo("An alternative is used where it is named: COURSE_CHAT=Qwen/Qwen2.5-0.5B-Instruct course run 7.2")


def _model_row(model: Any, choice: Any) -> dict[str, Any]:
    """A catalogue entry for --json, with whether it is cached and chosen here, and why."""
    from dataclasses import asdict

    chosen = choice.model == model
    row = asdict(model) | {"cached": model.cached_folder is not None, "chosen": chosen}
    return row | ({"reason": choice.reason} if chosen else {})


@app.command()
def progress(as_json: Json = False) -> None:
    """Show your exercises and quizzes.

    Your progress is kept on this machine only, outside the course's folder.
    """
    from course_utils.exercises import progress as kept
    from course_utils.exercises import registry

    with contextlib.redirect_stdout(sys.stderr):  # a damaged file is reported there, so that JSON stays whole
        exercises = [_progress_row("exercises", one) for one in registry.exercises().values()]
        quizzes = [_progress_row("quizzes", one) for one in registry.quizzes().values()]
        place = str(kept.file()) if kept.recording() else None
    if as_json:
        return show_json({"file": place, "exercises": exercises, "quizzes": quizzes})
    _show_progress(exercises, quizzes)
    if place:
        typer.echo(f"Kept in {place}, and sent nowhere.")
    elif kept.recording_is_off():
        typer.echo("Nothing is recorded: COURSE_PROGRESS is off.")
    else:
        typer.echo("Nothing is recorded: the file can't be used.")


def _progress_row(kind: str, task: Any) -> dict[str, Any]:
    """What an exercise or a quiz is, and what is known of it."""
    from dataclasses import asdict

    from course_utils.exercises import progress as kept
    from course_utils.exercises import registry

    row = {"name": task.name, "unit": registry.unit_of(task.name)}
    if kind == "quizzes":
        return row | {"question": task.question} | asdict(kept.get(kind, task.name))
    row |= {"title": task.title, "difficulty": task.difficulty, "minutes": task.minutes}
    return row | {"hints_in_all": len(task.hints)} | asdict(kept.get(kind, task.name))


def _show_progress(exercises: list[dict], quizzes: list[dict]) -> None:
    """Per unit a table of exercises and one of quizzes."""
    screen = console()
    for unit in dict.fromkeys(row["unit"] for row in exercises + quizzes):
        table = view(f"Unit {unit}", "exercise", "title", "difficulty", ">minutes", "status", "hints")
        for row in (row for row in exercises if row["unit"] == unit):
            status = f"{row['status']}, solution seen" if row["solution_shown"] else row["status"]
            hints = f"{row['hints']} of {row['hints_in_all']}"
            table.add_row(row["name"], row["title"], row["difficulty"], str(row["minutes"]), status, hints)
        screen.print(table)
        table = view("", "quiz", "question", "status")
        for row in (row for row in quizzes if row["unit"] == unit):
            table.add_row(row["name"], row["question"], row["status"])
        screen.print(table)


@app.command()
def notebooks(
    units: Units = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what differs; change nothing.")] = False,
    tags: Annotated[bool, typer.Option("--tags", help="Only carry the cells' tags over; run nothing.")] = False,
) -> None:
    """Build the .ipynb files from their text.

    They are executed on the bundled tier without network. --check compares text and .ipynb instead.
    """
    from course_utils.workshop import notebooks

    if check and tags:
        raise typer.BadParameter("--check changes nothing and --tags does; choose one.")
    with plain_errors(), interruptible():
        chosen = _texts(units) if units else notebooks.sources()
        if not check:
            faults = _build_all(chosen, notebooks.retag if tags else notebooks.build)
        elif units:
            faults = _differences(chosen)
        else:
            faults = notebooks.check()
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(1)
    typer.echo(f"{len(chosen)} notebooks {'agree with their sources' if check else 'built'}.")


def _differences(chosen: list[Path]) -> list[str]:
    """Where text sources and their .ipynb differ."""
    from course_utils.workshop import notebooks

    faults: list[str] = []
    for path in chosen:
        faults += notebooks.agree(path)
    return faults


def _texts(units: list[str]) -> list[Path]:
    """The text sources of the notebooks that `units` name."""
    from course_utils.workshop import notebooks, runner

    names = {path.stem for path in runner.resolve(units)}
    chosen = [source for source in notebooks.sources() if source.stem in names]
    if missing := names - {source.stem for source in chosen}:
        raise ValueError(f"no text source for {', '.join(sorted(missing))}")
    return chosen


def _build_all(chosen: list[Path], build: Callable[[Path], Path]) -> list[str]:
    """Builds one after the other, and keeps going when one fails; returns what went wrong."""
    from course_utils.workshop import notebooks

    faults = []
    for source in chosen:
        try:
            typer.echo(f"built {build(source).name}")
        except notebooks.BuildError as error:
            faults.append(str(error))
    return faults


@app.command()
def links(
    check: Annotated[bool, typer.Option("--check", help="Only say what would change.")] = False,
) -> None:
    """Rewrite badges and bootstrap cells.

    The repository's address is taken from course_utils/settings.py.
    """
    from course_utils.workshop import links

    with plain_errors():
        changed = links.rewrite_links(check=check)
    for path in changed:
        typer.echo(f"{'out of date' if check else 'rewritten'}: {path}")
    if changed and not check:
        typer.echo("Now `course notebooks` brings the .ipynb in step.")
    if not changed:
        typer.echo("Badges and bootstrap cells are up to date.")
    if check and changed:
        raise typer.Exit(1)


@app.command()
def record(
    names: Annotated[list[str] | None, typer.Argument(help="What stands after %%real; all if left out.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A folder of weights, where no hub is reached.")] = None,
) -> None:
    """Record what the plain cells give.

    Each section runs in a fresh kernel and an empty folder, with the real model (network); the bundled tier shows the
    recording. CONTRIBUTING.md says how a folder of weights is laid out.
    """
    from course_utils.workshop import recorder

    with plain_errors(), interruptible():
        for name in names or sorted(recorder.sections()):
            try:
                typer.echo(f"recorded {_near(recorder.record(name, weights))}")
            except recorder.RecordingError as error:
                typer.echo(f"course: {error}", err=True)
                raise typer.Exit(1) from error


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="prisma-clip, prisma-whisper or prisma-lm.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    minutes: Annotated[float | None, typer.Option(help="Stop after this time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train one of the course's own models.

    The result goes to build/train/<model>; --resume goes on from the last checkpoint there. At the end the
    new model is compared with the one that comes with the course.
    """
    from course_utils.workshop import evaluate as evaluation

    with plain_errors(), interruptible():
        if minutes is not None and not 0 < minutes < math.inf:
            raise ValueError(f"--minutes is {minutes:g}; give the minutes to train as a number above 0, such as 30")
        recipe = recipe_of(model)
        chosen = {} if minutes is None else {"minutes": minutes}
        folder = recipe.train(device=device, resume=resume, **chosen)
        typer.echo(f"Trained {model}: {_near(folder)}. Comparing it with the shipped model ...")
        typer.echo(evaluation.verdict(model, folder))


def recipe_of(model: str) -> Any:
    """The module that knows how to train `model`; ValueError for another name."""
    import importlib

    from course_utils.models import bundled

    if model not in bundled.NAMES:
        raise ValueError(f"no model {model!r} to train; there are {', '.join(bundled.NAMES)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the recipes need nothing from the network
    return importlib.import_module(f"course_utils.prisma.{model.removeprefix('prisma-')}")


@app.command()
def evaluate(
    seed: Annotated[int, typer.Option(help="Draws the cases that are measured.")] = 7,
    as_json: Json = False,
) -> None:
    """Measure the bundled models.

    On cases that they never saw in training, drawn from --seed, with 95 % intervals.
    """
    from course_utils.models import bundled
    from course_utils.workshop import evaluate as evaluation

    try:
        report = evaluation.evaluate_all(seed)
    except bundled.BundledModelError as error:
        typer.echo(f"course: {error}", err=True)
        raise typer.Exit(1) from error
    rows = [_against(m, evaluation.BARS[name]) for name, m in report.items()]
    if as_json:
        return show_json(dict(zip(report, rows, strict=True)))
    table = view(f"Prisma models, seed {seed}", "model", "measure", "value (95 % interval)", "bar", "reached")
    for name, measures in zip(report, rows, strict=True):
        for measure, row in measures.items():
            reached = {None: "", True: "yes", False: "no"}[row["reached"]]
            table.add_row(name, measure, str(report[name][measure]), row["bar"], reached)
    console().print(table)


def _against(measures: dict[str, Any], bars: dict[str, float]) -> dict[str, dict]:
    """Each measure as plain values, with its bar in words and whether it is reached."""
    from dataclasses import asdict

    from course_utils.workshop import evaluate as evaluation

    reached = evaluation.reached(measures, bars)
    words = {name: f"{'at most' if bar < 0 else 'at least'} {abs(bar):g}" for name, bar in bars.items()}
    return {
        name: asdict(one) | {"bar": words.get(name, ""), "reached": reached.get(name)} for name, one in measures.items()
    }


if __name__ == "__main__":
    app()
