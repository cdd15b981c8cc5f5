"""What of a notebook counts: the functions asked for with all that they need, and the answers to quizzes.

Nothing of a student's code runs here. Cells are parsed, and a piece is put together for each exercise: the last
definition, as a run from top to bottom would leave it, after the imports, helpers and constants that it uses.
"""

import ast
import functools
import re
import symtable
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from course_utils.classroom.grading import copying
from course_utils.exercises import registry, renames
from course_utils.exercises.registry import Exercise

LONGEST_CELL = 100_000  # characters
DEEPEST = 200  # levels of a cell's tree; what walks through it calls itself for each
MOST_NEEDS = 5_000  # names looked up for one exercise
REMEMBERED, SHORT = 1_000, 1_000  # cells, and their characters; most of a class's are those that were handed out
OPEN, COPIED = "open", "copied"
ALIKE = "is word for word the course's solution, which is so short that this may be chance"
# IPython 7, which Colab has, does not see this under a Python from 3.12 on.
FROM_SHELL = re.compile(r"^(\s*\w+\s*=\s*)!.*$", re.MULTILINE)
BODY_MAGICS = ("time", "timeit", "capture", "prun")  # cell magics that run what is below them as Python
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
WHOLE = (*DEFINITIONS, *IMPORTS, ast.Assign)  # what was bound before is forgotten
COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


class Tangled(Exception):
    """A function that needs more than anybody writes."""


@dataclass(frozen=True)
class Extract:
    """What counts of some cells. `pieces` are to be run; the exercises in `open` and `copied` need not be.

    open: the stub was left as it is. copied: the course's own solution, word for word. quizzes: the last valid letter.
    notes: what could not be read, in sentences.
    """

    pieces: dict[str, str] = field(default_factory=dict)
    open: frozenset[str] = frozenset()
    copied: frozenset[str] = frozenset()
    quizzes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A cell of Python."""

    text: str
    tree: ast.Module


@dataclass(frozen=True)
class Statement:
    """A statement at the top level of a cell.

    changes: names whose values it changes without binding them. now, later: global names that it reads when it runs,
    and when a function in it is called.
    """

    node: ast.stmt
    text: str
    binds: frozenset[str]
    changes: frozenset[str]
    now: frozenset[str]
    later: frozenset[str]


def extract(cells: Sequence[str]) -> Extract:
    """What counts of a notebook's code cells."""
    parsed, notes = _parsed(cells)
    checked: dict[str, ast.expr | None] = {}
    letters: dict[str, str] = {}
    statements: list[Statement] = []
    for cell in parsed:
        checked |= _checked(cell)
        letters |= _letters(cell)
        statements += _statements(cell)
    notebook = Notebook(statements)
    pieces: dict[str, str] = {}
    settled: dict[str, set[str]] = {OPEN: set(), COPIED: set()}
    for name, task in registry.exercises().items():
        answer = _answer(task, checked.get(name), notebook)
        kind = _kind(task, answer, notebook)
        if kind in settled:
            settled[kind].add(name)
        elif answer is not None:
            notes += [f"{name} {ALIKE}."] if kind == ALIKE else []
            try:
                pieces[name] = notebook.piece(answer, task.stub.__name__)
            except Tangled:
                notes.append(f"{name} is left out: it needs more than {MOST_NEEDS:,} values of the notebook.")
    return Extract(pieces, frozenset(settled[OPEN]), frozenset(settled[COPIED]), letters, tuple(notes))


def quiz_letters(cells: Sequence[str]) -> dict[str, str]:
    """The answers to quizzes in code cells, as `extract` counts them."""
    parsed, _ = _parsed([cell for cell in cells if "quiz" in cell])
    letters: dict[str, str] = {}
    for cell in parsed:
        letters |= _letters(cell)
    return letters


def _kind(task: Exercise, answer: ast.expr | None, notebook: "Notebook") -> str:
    """What an answer is by its text alone: OPEN, COPIED, ALIKE, or "" for the student's own."""
    definition = notebook.definition(answer)
    if definition is None:
        return ""
    if copying.is_stub(definition):
        return OPEN
    if not copying.is_alike(definition, task):
        return ""
    return COPIED if copying.is_no_chance(task) else ALIKE


def _answer(task: Exercise, checked: ast.expr | None, notebook: "Notebook") -> ast.expr | None:
    """What a student offers for an exercise: what was last given to `check`, else what has the stub's name."""
    own = ast.Name(task.stub.__name__, ast.Load())
    for offered in (checked, own):
        if offered is not None and notebook.knows(offered):
            return offered
    return None


# --- cells as trees ---------------------------------------------------------------------------------------


def _parsed(cells: Sequence[str]) -> tuple[list[Cell], list[str]]:
    """Each cell that is Python, and a sentence on those that are not."""
    parsed, unread = [], []
    for number, text in enumerate(cells, 1):
        try:
            parsed.append(_as_python(text.replace("\r\n", "\n").replace("\r", "\n")))
        except UNREADABLE:
            unread.append(str(number))
    if not unread:
        return parsed, []
    which = f"Code cell {unread[0]} is" if len(unread) == 1 else f"Code cells {_listed(unread)} are"
    return parsed, [f"{which} no Python that can be read, and left out."]


def _listed(numbers: list[str]) -> str:
    """The first ten."""
    more = ", ..." if len(numbers) > 10 else ""
    return ", ".join(numbers[:10]) + more


def _remembering(reads: Callable) -> Callable:
    """Remembers what was read from short cells. The trees of long ones would fill the memory."""
    remembers = functools.lru_cache(REMEMBERED)(reads)

    def read(cell: str | Cell) -> Any:
        text = cell if isinstance(cell, str) else cell.text
        return remembers(cell) if len(text) <= SHORT else reads(cell)

    return read


@_remembering
def _as_python(text: str) -> Cell:
    """A cell without what only IPython understands. A cell that is Python stays as it is."""
    try:
        return _cell(text)
    except SyntaxError:
        return _cell(_without_magics(text))


def _cell(text: str) -> Cell:
    """A cell and its tree; warnings (of an odd backslash) are left unsaid."""
    if len(text) > LONGEST_CELL:
        raise ValueError("too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    if _depth(tree) > DEEPEST:
        raise RecursionError
    return Cell(text, tree)


def _depth(tree: ast.AST) -> int:
    """How many levels a tree has."""
    level, depth = [tree], 0
    while level:
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        depth += 1
    return depth


def _without_magics(text: str) -> str:
    from IPython.core.inputtransformer2 import TransformerManager  # takes a moment, and few cells need it

    if text.lstrip().startswith("%%"):
        head, _, body = text.lstrip().partition("\n")
        magic = head.removeprefix("%%").split()
        return _as_python(body).text if magic and magic[0] in BODY_MAGICS else ""
    return FROM_SHELL.sub(r"\1None", TransformerManager().transform_cell(text))


@_remembering
def _checked(cell: Cell) -> dict[str, ast.expr | None]:
    """What is given to `check` in a cell, by exercise."""
    calls = _run_at_once(cell.tree) if "check" in cell.text else ()
    checked = {_name(call, "check"): _argument(call, "check", 1, "function") for call in calls}
    return {name: function for name, function in checked.items() if name}


@_remembering
def _letters(cell: Cell) -> dict[str, str]:
    """The valid answers to quizzes in a cell."""
    letters = {}
    for call in _run_at_once(cell.tree) if "quiz" in cell.text else ():
        name = _name(call, "quiz")
        letter = _text(_argument(call, "quiz", 1, "answer")).strip().lower().rstrip(").")
        quiz = registry.quizzes().get(name)
        if quiz and letter in quiz.letters:
            letters[name] = letter
    return letters


def _run_at_once(tree: ast.Module) -> Iterator[ast.AST]:
    """All parts of a cell, in their order, but for those that run only when a function is called."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _argument(call: ast.AST, function: str, place: int, keyword: str) -> ast.expr | None:
    """An argument of a call of `function`, by its place or its name."""
    if not isinstance(call, ast.Call) or _own_name(call.func) != function:
        return None
    if place < len(call.args):
        return call.args[place]
    named = [given.value for given in call.keywords if given.arg == keyword]
    return named[0] if named else None


def _name(call: ast.AST, function: str) -> str:
    """What a call of `function` names, as it is called now; empty if it is no such call."""
    name = _text(_argument(call, function, 0, "name"))
    return renames.current(name)


def _own_name(function: ast.expr) -> str:
    """`check` for check and for exercises.check."""
    return getattr(function, "id", getattr(function, "attr", ""))


def _text(node: ast.expr | None) -> str:
    value = getattr(node, "value", "")
    return value if isinstance(value, str) else ""


# --- statements and the names in them ---------------------------------------------------------------------


@_remembering
def _statements(cell: Cell) -> list[Statement]:
    """The statements of a cell that may define something. `x = check("7.1.x", y)` counts as `x = y`."""
    lines = cell.text.split("\n")
    statements = []
    for node in cell.tree.body:
        text = _source(lines, node)
        if isinstance(node, ast.Assign) and _text(_argument(node.value, "check", 0, "name")):
            given = _argument(node.value, "check", 1, "function")
            if given is None or ast.dump(node.targets[0]) == ast.dump(_stored(given)):
                continue
            node = ast.Assign(node.targets, given, lineno=node.lineno)
            text = ast.unparse(node)
        if statement := _with_names(node, text):
            statements.append(statement)
    return statements


def _stored(node: ast.expr) -> ast.expr:
    return ast.Name(node.id, ast.Store()) if isinstance(node, ast.Name) else node


def _source(lines: list[str], node: ast.stmt) -> str:
    """The text of a statement, as it stands in the cell where that is possible, its decorators included."""
    if isinstance(node, DEFINITIONS):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return "\n".join(lines[first - 1 : node.end_lineno])
    last_line = lines[node.end_lineno - 1].encode()  # columns count bytes
    after = last_line[node.end_col_offset :].strip()
    if node.col_offset == 0 and not after:
        return "\n".join(lines[node.lineno - 1 : node.end_lineno])
    return ast.unparse(node)  # it shares a line with another, or with a comment


def _with_names(node: ast.stmt, text: str) -> Statement | None:
    """A statement with the names that it binds and reads; None if it can't stand at the top of a module."""
    if "get_ipython()" in text and not isinstance(node, DEFINITIONS):  # what IPython made of a magic
        return None
    try:
        table = symtable.symtable(text, "cell", "exec")
    except UNREADABLE:
        return None
    binds = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    now = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced()}
    later: set[str] = set()
    for scope, at_once in _scopes(table):
        names = {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global()}
        (now if at_once else later).update(names)
    return Statement(node, text, *map(frozenset, (binds, _changes(node), now, later)))


def _scopes(table: symtable.SymbolTable) -> Iterator[tuple[symtable.SymbolTable, bool]]:
    """The functions, classes and comprehensions in a statement, and whether they run with it, not when called."""
    waiting = [(table, True)]
    while waiting:
        outer, outer_at_once = waiting.pop()
        for scope in outer.get_children():
            at_once = scope.get_type() == "class" or scope.get_name() in COMPREHENSIONS
            yield scope, outer_at_once and at_once
            waiting.append((scope, outer_at_once and at_once))


def _changes(node: ast.stmt) -> set[str]:
    """Names whose values a statement changes: `x[0] = 1`, `x.y = 1`, `x += 1`, `x.append(1)`."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        return _roots([called]) if isinstance(called, ast.Attribute) else set()
    if isinstance(node, ast.Assign | ast.Delete):
        return _roots(node.targets)
    if isinstance(node, ast.AugAssign | ast.AnnAssign):
        return _roots([node.target])
    if isinstance(node, ast.For | ast.While | ast.If | ast.With | ast.Try):
        inner = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)]
        return {name for part in inner for name in _changes(part)}
    return set()


def _roots(targets: list[ast.expr]) -> set[str]:
    """`x` for x.y[0].z."""
    names = set()
    for target in targets:
        inside = target
        while isinstance(inside, ast.Attribute | ast.Subscript):
            inside = inside.value
        if isinstance(inside, ast.Name) and inside is not target:
            names.add(inside.id)
    return names


# --- what a function needs --------------------------------------------------------------------------------


class Notebook:
    """All statements in their order, and where each name is bound or changed."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.statements = statements
        self.end = len(statements)
        self.bound: dict[str, list[int]] = defaultdict(list)
        self.changed: dict[str, list[int]] = defaultdict(list)
        for place, statement in enumerate(statements):
            for name in statement.binds:
                self.bound[name].append(place)
            for name in statement.changes:
                self.changed[name].append(place)
        self.always = [place for place, statement in enumerate(statements) if _is_always_needed(statement.node)]

    def knows(self, answer: ast.expr) -> bool:
        """Whether an answer is more than a name that nothing defines."""
        return not isinstance(answer, ast.Name) or answer.id in self.bound

    def definition(self, answer: ast.expr | None) -> ast.stmt | None:
        """The last statement that binds an answer which is a name; `x = y` leads on to y."""
        end = self.end
        while isinstance(answer, ast.Name):
            places = [place for place in self.bound.get(answer.id, []) if place < end]
            if not places:
                return None
            end = places[-1]
            node = self.statements[end].node
            if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)):
                return node
            answer = node.value
        return None

    def piece(self, answer: ast.expr, name: str) -> str:
        """The source that leaves the answer under `name`, with all that it needs and nothing else."""
        read = {node.id for node in ast.walk(answer) if isinstance(node, ast.Name)}
        places = sorted(self._needed(read))
        texts = [self.statements[place].text for place in [*self.always, *places]]
        if not (isinstance(answer, ast.Name) and answer.id == name):
            texts.append(f"{name} = {ast.unparse(answer)}")
        return "\n\n".join(texts) + "\n"

    def _needed(self, names: set[str]) -> set[int]:
        """The places of all statements that give `names` their values at the end, and of what these need."""
        needed: set[int] = set()
        waiting = [(name, self.end) for name in names]
        seen = set(waiting)
        while waiting:
            if len(seen) > MOST_NEEDS:
                raise Tangled
            name, time = waiting.pop()
            for place in self._behind(name, time):
                needed.add(place)
                statement = self.statements[place]
                reads = {(read, place) for read in statement.now} | {(read, time) for read in statement.later}
                waiting += reads - seen
                seen |= reads
        return needed - set(self.always)

    def _behind(self, name: str, time: int) -> list[int]:
        """The statements before `time` that make the value of `name`: the last whole binding, and changes after it."""
        places = []
        for place in reversed(self.bound.get(name, [])):
            if place >= time:
                continue
            places.append(place)
            statement = self.statements[place]
            if _is_whole(statement.node) and name not in statement.now:
                break
        if not places or isinstance(self.statements[places[-1]].node, IMPORTS):
            return places  # a module stays as it is: what changes it may be anything
        return places + [place for place in self.changed.get(name, []) if places[-1] < place < time]


def _is_whole(node: ast.stmt) -> bool:
    """Whether a statement binds a name anew. `x: int` binds nothing, and `import a.b` leaves what `import a.c` did."""
    if isinstance(node, ast.Import):
        return not any("." in alias.name for alias in node.names)
    if isinstance(node, ast.AnnAssign):
        return node.value is not None
    return isinstance(node, WHOLE)


def _is_always_needed(node: ast.stmt) -> bool:
    """`from x import *` may bring any name, and `from __future__` changes how the rest is read."""
    if not isinstance(node, ast.ImportFrom):
        return False
    return node.module == "__future__" or any(alias.name == "*" for alias in node.names)
