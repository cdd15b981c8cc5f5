"""How much happens in a line of ours: operations a statement, and comprehensions inside others.

    python -m course_utils.workshop.density        # what `make check` prints

Lines that can be read aloud hold one idea each. Codebases that are read with pleasure have 1.0 to 1.2 operations
a statement: nanochat, LLMs-from-scratch, fastcore and others.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from course_utils.settings import ROOT, TEXT

OPERATIONS = (ast.Call, ast.BinOp, ast.IfExp, ast.comprehension, ast.Compare, ast.BoolOp)
SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
MOST = 8  # a statement counts as this many at most, so that one table of data does not decide


@dataclass(frozen=True)
class Density:
    """Operations and simple statements of some code, and its comprehensions with more than one loop."""

    operations: int
    statements: int
    nested: int

    def __str__(self) -> str:
        a_statement = self.operations / self.statements
        a_thousand = 1000 * self.nested / self.statements
        return f"{a_statement:.2f} operations a statement, {a_thousand:.1f} nested comprehensions per 1,000 statements"


def density(sources: Iterable[str]) -> Density:
    """The density of Python sources taken together. ValueError without a statement."""
    counts: list[int] = []
    nested = 0
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            nested += _is_nested(node)
            if isinstance(node, SIMPLE) and not _is_docstring(node):
                counts.append(_operations(node))
    if not counts:
        raise ValueError("there is no statement in these sources")
    return Density(sum(counts), len(counts), nested)


def _operations(statement: ast.stmt) -> int:
    """The calls, operators, comparisons, conditions and loops in a statement."""
    parts = ast.walk(statement)
    found = [part for part in parts if isinstance(part, OPERATIONS)]
    return min(MOST, len(found))


def _is_nested(node: ast.AST) -> bool:
    """Whether a comprehension has two loops, or another comprehension in it."""
    if not isinstance(node, COMPREHENSIONS):
        return False
    inner = [part for part in ast.walk(node) if isinstance(part, COMPREHENSIONS)]
    return len(inner) > 1 or len(node.generators) > 1


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def main() -> None:
    """Prints the density of the package and of the notebooks' cells."""
    for folder in (ROOT / "course_utils", TEXT):
        sources = [path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))]
        print(f"{folder.relative_to(ROOT).as_posix()}: {density(sources)}")


if __name__ == "__main__":
    main()
