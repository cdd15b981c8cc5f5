"""The folders show the layers: units know the core, not each other; the core knows no unit; no private name travels."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from course_utils.settings import ROOT, TEXT

PACKAGE = ROOT / "course_utils"
UNITS = {"multimodal", "agents", "research", "serving", "finetuning"}
ABOVE = {"cli", "workshop", "classroom"}  # what may use everything
MODULES = sorted(PACKAGE.rglob("*.py"))
READERS = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted(TEXT.rglob("*.py"))]


def part_of(path: Path) -> str:
    """The first level below the package: a folder or a module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[list[str], str, str]]:
    """Every name that a file takes from the package: the module's path, the name, and what the file calls it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        root, *path = (node.module or "").split(".")
        if root != "course_utils":
            continue
        for alias in node.names:
            yield path, alias.name, alias.asname or alias.name


def used_parts(tree: ast.AST) -> set[str]:
    """The parts of the package that a file uses."""
    return {path[0] if path else name for path, name, _ in imports(tree)}


def upward(part: str, used: set[str]) -> set[str]:
    """What `part` may not use of what it uses."""
    if part in ABOVE:
        return set()
    others = UNITS - {part}
    return used & (others | ABOVE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nobody_imports_upwards(path: Path) -> None:
    used = used_parts(ast.parse(path.read_text("utf-8")))
    assert upward(part_of(path), used) == set()


@pytest.mark.parametrize(
    ("part", "line", "wrong"),
    [
        ("agents", "from course_utils.finetuning import lora_by_hand", {"finetuning"}),
        ("models", "from course_utils import agents", {"agents"}),
        ("figures", "from course_utils.workshop.runner import run", {"workshop"}),
        ("agents", "from course_utils.agents import loop", set()),
        ("workshop", "from course_utils.agents import loop", set()),
    ],
)
def test_an_import_upwards_is_seen(part: str, line: str, wrong: set[str]) -> None:
    assert upward(part, used_parts(ast.parse(line))) == wrong


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def private_uses(source: str) -> list[str]:
    """The private names of other modules that a file imports, reads, or replaces in a test."""
    tree = ast.parse(source)
    taken = list(imports(tree))
    modules = {alias for _, _, alias in taken}
    found = [name for _, name, _ in taken if is_private(name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner, name = node.value.id, node.attr
        elif isinstance(node, ast.Call) and len(node.args) > 1 and isinstance(node.args[0], ast.Name):
            owner, name = node.args[0].id, getattr(node.args[1], "value", None)
        else:
            continue
        if owner in modules and is_private(name):
            found.append(f"{owner}.{name}")
    return found


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_private_name_is_used_outside_its_module(path: Path) -> None:
    assert private_uses(path.read_text("utf-8")) == []


def test_a_private_name_is_seen() -> None:
    line = "from course_utils.models import hardware\n"
    assert private_uses(line + "hardware._ram()") == ["hardware._ram"]
    assert private_uses(line + "monkeypatch.setattr(hardware, '_ram', None)") == ["hardware._ram"]
    assert private_uses("from course_utils.models.hardware import _ram") == ["_ram"]
    assert private_uses(line + "hardware.detect()") == []
