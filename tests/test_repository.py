"""What a repository has around its code: how to cite it, what changed, its version, and who may help."""

import datetime
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import course_utils
from course_utils import cli, exercises
from course_utils.settings import ROOT

KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
CONTAINER = ".devcontainer/devcontainer.json"
RECIPE = ".devcontainer/Dockerfile"
VERSION = course_utils.__version__


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PYPROJECT = tomllib.loads(text("pyproject.toml"))
PROJECT = PYPROJECT["project"]


# The version


def releases() -> list[tuple[str, str]]:
    """Number and date of each version in the changelog, in its order."""
    heading = r"(?m)^## (\d\S*) - (\S+)$"
    return re.findall(heading, text("CHANGELOG.md"))


def test_the_version_has_one_place() -> None:
    source = PYPROJECT["tool"]["setuptools"]["dynamic"]["version"]
    assert PROJECT["dynamic"] == ["version"]
    assert source == {"attr": "course_utils.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_changelog_begins_with_what_is_not_released_and_this_version() -> None:
    headings = re.findall(r"(?m)^## (\S+)", text("CHANGELOG.md"))
    assert headings[:2] == ["Unreleased", VERSION]


def test_the_changelog_goes_back_in_time() -> None:
    numbers = [Version(number) for number, _ in releases()]
    dates = [datetime.date.fromisoformat(date) for _, date in releases()]
    assert len(numbers) >= 2
    assert numbers == sorted(numbers, reverse=True)
    assert dates == sorted(dates, reverse=True)


def test_the_changelog_knows_six_kinds_of_change() -> None:
    headings = re.findall(r"(?m)^### (.*)$", text("CHANGELOG.md"))
    unknown = set(headings) - KINDS
    assert headings
    assert unknown == set()


def test_how_to_cite_agrees_with_the_package() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    title = citation["title"]
    version, date = releases()[0]
    assert citation["version"] == version == VERSION
    assert citation["date-released"] == date
    assert PROJECT["description"].startswith(title)
    assert text("README.md").startswith(f"# {title}\n")


def test_how_to_cite_has_what_the_format_asks_for() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    asked = {"cff-version", "message", "title", "authors"}
    assert asked <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] in PROJECT["license"].split()


# The dev container


def container() -> dict:
    return json.loads(text(CONTAINER))


def steps() -> list[list[str]]:
    """The words of each command that sets the container up."""
    line = container()["postCreateCommand"]
    return [shlex.split(command) for command in line.split("&&")]


def test_the_container_takes_torch_without_cuda() -> None:
    environment = container()["containerEnv"]
    assert environment["UV_TORCH_BACKEND"] == "cpu"
    assert "uv pip install -c constraints.txt -e .[dev]".split() in steps()


@pytest.mark.parametrize("name", ["torch", "torchvision"])
def test_the_pins_admit_torch_without_cuda(name: str) -> None:
    """Builds for the CPU call themselves 2.15.0+cpu; pip must not replace one by another build."""
    (pin,) = re.findall(rf"(?m)^{name}==\S+$", text("constraints.txt"))
    pinned = Requirement(pin).specifier
    version = pin.removeprefix(f"{name}==")
    assert pinned.contains(f"{version}+cpu")


def test_the_container_has_what_its_command_calls() -> None:
    called = {words[0] for words in steps()}
    recipe = text(RECIPE)
    user = container()["remoteUser"]
    assert called == {"uv", "touch"}  # touch is in every image
    assert "pip install --no-cache-dir uv " in recipe
    assert f"useradd --create-home --shell /bin/bash {user}\n" in recipe


def test_make_takes_the_containers_environment() -> None:
    """make sets .venv up by itself unless it finds this mark."""
    *_, last = steps()
    mark = ".venv/.ready"
    assert last == ["touch", mark]
    assert f"READY := {mark}\n" in text("Makefile")


def test_the_containers_python_is_one_of_the_courses() -> None:
    (version,) = re.findall(r"(?m)^FROM python:(\d+\.\d+)", text(RECIPE))
    asked = Requirement("python" + PROJECT["requires-python"])
    assert asked.specifier.contains(f"{version}.0")


@pytest.mark.parametrize("name", ["README.md", "Makefile", CONTAINER])
def test_whoever_installs_the_course_takes_its_pins(name: str) -> None:
    lines = [line for line in text(name).splitlines() if ".[dev]" in line]
    free = [line for line in lines if "-c constraints.txt" not in line]
    assert lines
    assert free == []


# Documents

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("notebooks/teaching/*.md"), *ROOT.glob("course_utils/**/*.md")])
SHOWN = re.compile(r"(?:`\n? *|/bin/)course ([a-z][a-z0-9-]+)([^`\n]*)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_that_a_document_shows_exist_with_their_options(path: Path) -> None:
    for name, rest in SHOWN.findall(path.read_text("utf-8")):
        command = typer.main.get_command(cli.app).commands.get(name)
        assert command, f"course {name}"
        inner = rest.split()[:1]
        if inner and hasattr(command, "commands"):
            command = command.commands[inner[0]]
        known = {option for one in command.params for option in one.opts}
        assert set(re.findall(r"--[a-z][a-z-]*", rest)) <= known, f"course {name}{rest}"


# For coding assistants


def spans() -> list[str]:
    """Everything that AGENTS.md writes as code."""
    return re.findall(r"`([^`\n]+)`", text("AGENTS.md"))


def course_has(words: list[str]) -> bool:
    """Whether the `course` command knows the first of these words; without one, it shows its help."""
    commands = typer.main.get_command(cli.app).commands
    return not words or words[0] in commands


def make_has(words: list[str]) -> bool:
    """Whether make knows all of these targets."""
    targets = re.findall(r"(?m)^([a-z]+):", text("Makefile"))
    return set(words) <= set(targets)


def environment_has(program: str) -> bool:
    """Whether the course's environment has this program: Python, or what pyproject.toml asks for."""
    return program == "python" or f'"{program}>=' in text("pyproject.toml")


def all_there(words: list[str]) -> bool:
    """Whether those of a command's words that are paths lead to something."""
    paths = [word for word in words if "/" in word]
    return all((ROOT / path).exists() for path in paths)


def exists(span: str) -> bool:
    """Whether a command, a path or a name of the course is there."""
    first, *rest = shlex.split(span)
    program = first.removeprefix(".venv/bin/")
    if program == "make":
        return make_has(rest)
    if program == "course":
        return course_has(rest)
    if program != first:
        return environment_has(program) and all_there(rest)
    if "/" in span or "." in span:
        return any(ROOT.glob(span))
    return span in exercises.__all__


def test_assistants_are_told_of_nothing_that_is_not_there() -> None:
    missing = [span for span in spans() if not exists(span)]
    assert len(spans()) > 20
    assert missing == []


LOST = ["make cake", "course bake", "notebooks/9.9.py", "course_utils/gone/", "nonsense", ".venv/bin/gone ."]
LOST += [".venv/bin/python -m pytest tests/test_gone.py"]


@pytest.mark.parametrize("span", LOST)
def test_a_name_that_is_not_there_is_found(span: str) -> None:
    assert not exists(span)


def test_assistants_are_told_not_to_solve() -> None:
    words = " ".join(text("AGENTS.md").split())
    assert "Never hand over the solution of an exercise" in words


def test_the_newcomers_questions_name_files_that_are_there() -> None:
    _, _, section = text("CONTRIBUTING.md").partition("## Where is it?")
    files = re.findall(r"\| `([^`]+)` \|", section.partition("## Exercises")[0])
    assert len(files) == 10
    assert [name for name in files if not (ROOT / name).is_file()] == []
