"""What a repository has around its code: how to cite it, what changed, its version, and who may help."""

import datetime
import json
import re
import shlex
import tomllib

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import course_utils
from course_utils import cli, exercises
from course_utils.settings import ROOT

KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
CONTAINER = ROOT / ".devcontainer"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict:
    return tomllib.loads(text("pyproject.toml"))


# The version


def releases() -> list[tuple[str, str]]:
    """Number and date of each version in the changelog, in its order."""
    return re.findall(r"(?m)^## (\d\S*) - (\S+)$", text("CHANGELOG.md"))


def test_the_version_has_one_place() -> None:
    assert pyproject()["project"]["dynamic"] == ["version"]
    assert pyproject()["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "course_utils.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", course_utils.__version__)


def test_the_changelog_begins_with_this_version() -> None:
    assert releases()[0][0] == course_utils.__version__
    assert text("CHANGELOG.md").index("## Unreleased") < text("CHANGELOG.md").index(f"## {course_utils.__version__}")


def test_the_changelog_goes_back_in_time() -> None:
    numbers = [Version(number) for number, _ in releases()]
    dates = [datetime.date.fromisoformat(date) for _, date in releases()]
    assert len(numbers) >= 2
    assert numbers == sorted(numbers, reverse=True)
    assert dates == sorted(dates, reverse=True)


def test_the_changelog_knows_six_kinds_of_change() -> None:
    headings = re.findall(r"(?m)^### (.*)$", text("CHANGELOG.md"))
    assert set(headings) <= set(KINDS)


def test_how_to_cite_agrees_with_the_package() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["authors"]
    assert citation["version"] == course_utils.__version__
    assert citation["date-released"] == releases()[0][1]
    assert pyproject()["project"]["description"].startswith(citation["title"])
    assert text("README.md").startswith(f"# {citation['title']}\n")
    assert citation["license"] in pyproject()["project"]["license"].split()


# The dev container


def container() -> dict:
    return json.loads((CONTAINER / "devcontainer.json").read_text(encoding="utf-8"))


def steps(command: str) -> list[list[str]]:
    """The words of each command in a line of them."""
    return [shlex.split(part) for part in command.split("&&")]


def test_the_container_takes_torch_without_cuda() -> None:
    assert container()["containerEnv"]["UV_TORCH_BACKEND"] == "cpu"
    installs = [words for words in steps(container()["postCreateCommand"]) if words[:3] == ["uv", "pip", "install"]]
    assert installs == [["uv", "pip", "install", "-c", "constraints.txt", "-e", ".[dev]"]]


def test_the_pins_admit_torch_without_cuda() -> None:
    """Builds for the CPU call themselves 2.15.0+cpu; pip must not replace one by the pin's own build."""
    for name in ("torch", "torchvision"):
        (pin,) = re.findall(rf"(?m)^{name}==\S+$", text("constraints.txt"))
        version = pin.removeprefix(f"{name}==")
        assert Requirement(pin).specifier.contains(f"{version}+cpu")


def test_the_container_has_what_its_command_calls() -> None:
    recipe = (CONTAINER / container()["build"]["dockerfile"]).read_text(encoding="utf-8")
    called = {words[0] for words in steps(container()["postCreateCommand"])}
    assert called == {"uv", "touch"}  # touch is in every image
    assert "pip install --no-cache-dir uv" in recipe
    assert f"useradd --create-home --shell /bin/bash {container()['remoteUser']}" in recipe


def test_make_takes_the_containers_environment() -> None:
    """make sets .venv up by itself unless it finds this mark."""
    last = steps(container()["postCreateCommand"])[-1]
    assert last == ["touch", ".venv/.ready"]
    assert f"READY := {last[1]}" in text("Makefile")


def test_the_containers_python_is_one_of_the_courses() -> None:
    recipe = (CONTAINER / "Dockerfile").read_text(encoding="utf-8")
    (version,) = re.findall(r"(?m)^FROM python:(\d+\.\d+)", recipe)
    asked = Requirement(f"python{pyproject()['project']['requires-python']}")
    assert asked.specifier.contains(f"{version}.0")


@pytest.mark.parametrize("name", ["README.md", "Makefile", ".devcontainer/devcontainer.json"])
def test_whoever_installs_the_course_takes_its_pins(name: str) -> None:
    lines = [line for line in text(name).splitlines() if ".[dev]" in line]
    assert lines
    assert [line for line in lines if "-c constraints.txt" not in line] == []


# For coding assistants


def spans() -> list[str]:
    """Everything that AGENTS.md writes as code."""
    return re.findall(r"`([^`\n]+)`", text("AGENTS.md"))


def targets() -> set[str]:
    """What make can be asked for."""
    return set(re.findall(r"(?m)^([a-z]+):", text("Makefile")))


def installed(program: str) -> bool:
    """Whether the course's environment has this program: Python, or what pyproject.toml asks for."""
    return program == "python" or f'"{program}>=' in text("pyproject.toml")


def there(word: str) -> bool:
    """Whether a word of a command is no path, or the path of something."""
    return "/" not in word or (ROOT / word).exists()


def exists(span: str) -> bool:
    """Whether a command, a path or a name of the course is there."""
    words = shlex.split(span)
    if words[0] == "make":
        return set(words[1:]) <= targets()
    if words[0] in ("course", ".venv/bin/course"):
        commands = typer.main.get_command(cli.app).commands
        return all(word in commands for word in words[1:2])
    if words[0].startswith(".venv/bin/"):
        return installed(words[0].removeprefix(".venv/bin/")) and all(map(there, words[1:]))
    if "/" in span or "." in span:
        return any(ROOT.glob(span))
    return hasattr(exercises, span)


def test_assistants_are_told_of_nothing_that_is_not_there() -> None:
    assert len(spans()) > 20
    assert [span for span in spans() if not exists(span)] == []


@pytest.mark.parametrize(
    "span",
    ["make cake", "course bake", "notebooks/9.9.py", "course_utils/gone/", "nonsense"]
    + [".venv/bin/python -m pytest tests/test_gone.py", ".venv/bin/gone ."],
)
def test_a_name_that_is_not_there_is_found(span: str) -> None:
    assert not exists(span)


def test_assistants_are_told_not_to_solve() -> None:
    words = " ".join(text("AGENTS.md").split())
    assert "Never hand over the solution of an exercise" in words
