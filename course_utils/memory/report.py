"""What `course vram` says of a model: where the memory goes, whether it fits, how long and how fast it can write.

By the formulas for shapes that they know, by counting for every other model that transformers can build, and from
its header for a GGUF file.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from course_utils.memory import apart, fit, formulas, loads, shapes, sources
from course_utils.memory.configs import NotCountedError
from course_utils.memory.counting import Counted
from course_utils.memory.loads import LONGEST, Load
from course_utils.memory.shapes import GIB, Architecture
from course_utils.models.gguf_header import Header

if TYPE_CHECKING:
    from course_utils.models.hardware import Hardware

Say = Callable[[str], None]


@dataclass(frozen=True)
class Table:
    """A title, and rows of which the first names the columns."""

    title: str
    rows: list[dict]


@dataclass
class Answer:
    """Tables and sentences for people, and the same as one dictionary for programs."""

    content: dict
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """What is asked about a model. `place` is a card's name or this machine; `say` tells what happens meanwhile.

    `largest`: also simulate how many tokens fit at a time, which takes three more simulations.
    """

    method: str
    seq: int
    batch: int
    place: "str | Hardware"
    quick: bool
    largest: bool
    say: Say


def about(name: str, question: Question) -> Answer:
    """The answer about the model that `name` leads to. ValueError, or DownloadError from the hub, if there is none."""
    formulas.check(question.method, "adamw", seq=question.seq, batch=question.batch)
    fit.available_in(question.place)  # an unknown card is said before anything is downloaded or counted
    model = _model(name, question)
    if isinstance(model, Architecture):
        return _of_shape(name, model, question)
    if isinstance(model, Counted):
        return _of_counted(model, question)
    return _of_header(name, model, question)


def _model(name: str, question: Question) -> Architecture | Counted | Header:
    known = shapes.known(name)
    if known:
        return known
    source = sources.find(name, question.say)
    if isinstance(source, Header):
        return source
    kind = source.get("model_type")
    if shapes.has_formula(kind):
        return shapes.from_config(source)
    question.say(f"No formula for {str(kind)!r:.60}: transformers builds the model without weights, and it is counted.")
    return apart.count_apart(source, loads.counted_in(question.method))


# ---------------------------------------------------------------------------------------------- by the formulas


def _of_shape(name: str, shape: Architecture, question: Question) -> Answer:
    needed = formulas.estimate(shape, question.method, seq=question.seq, batch=question.batch)
    simulated = None if question.quick else _simulated(shape, question)
    verdict = fit.fits(needed, question.place)
    title = f"{needed.model}, {needed.method}, {needed.seq} tokens, batch {needed.batch}"
    answer = Answer(needed.as_dict(), [Table(f"Formula: {title}", needed.rows())])
    if simulated:
        from course_utils.memory import simulate

        verdict = simulate.fits(simulated, question.place)
        answer.tables.append(Table("Formula and simulation (GiB)", simulate.side_by_side(simulated)))
        _add_simulation(answer, simulated)
    answer.content["verdict"] = asdict(verdict)
    answer.lines.append(str(verdict))
    if simulated and question.largest:
        answer.lines += _largest(shape, question)
    if question.method not in formulas.TRAINING:
        _add_reach(answer, loads.of_shape(shape, question.method), question)
    return answer


def _simulated(model: Architecture | Counted, question: Question) -> Any:
    """The simulation of the step; None, and why, if it can't be simulated."""
    from course_utils.memory import simulate
    from course_utils.models import loaders

    loaders.quiet_libraries()  # bitsandbytes tells everyone to install another package
    try:
        return simulate.simulate(model, question.method, question.seq, question.batch)
    except ValueError as error:
        question.say(f"Not simulated: {error}")


def _add_simulation(answer: Answer, simulated: Any) -> None:
    answer.content["simulated"] = {"rest": simulated.at_rest, "peak": simulated.at_peak}
    answer.lines.append(f"Simulated in {simulated.seconds:.0f} s. Activations include logits, caches and temporaries.")


def _largest(shape: Architecture, question: Question) -> list[str]:
    from course_utils.memory import simulate

    lines = []
    for row in simulate.largest(shape, question.method, [question.place], question.seq):
        room = f"{row[f'batch of {question.seq}, simulated']} sequences of {question.seq} tokens, or one of"
        lines.append(f"Largest that fits: {room} {row['one sequence, simulated']} tokens.")
    return lines


# ---------------------------------------------------------------------------------------------- counted


def _of_counted(counted: Counted, question: Question) -> Answer:
    parts = loads.parts(counted, question.method, question.seq, question.batch)
    content = asdict(counted) | {"parts (GiB)": parts}
    answer = Answer(content, [Table(f"Counted: {counted.id} ({counted.built})", _facts(counted))])
    title = f"{counted.id}, {question.method}, {question.seq} tokens, batch {question.batch}"
    answer.tables.append(Table(f"Counted: {title}", _rows(parts)))
    answer.lines += counted.notes
    if counted.no_cache:
        answer.lines.append(counted.no_cache)
    simulated = None if question.quick else _simulated(counted, question)
    if simulated:
        answer.tables.append(Table("Simulation (GiB)", simulated.rows()))
        _add_simulation(answer, simulated)
    verdict = _verdict(sum(parts.values()), simulated, question)
    answer.content["verdict"] = asdict(verdict)
    answer.lines.append(str(verdict))
    if not simulated:
        answer.lines.append("Activations are not in it: only a simulation tells how large they are.")
    if question.method not in formulas.TRAINING:
        _add_reach_if_known(answer, lambda: loads.of_counted(counted, question.method), question)
    return answer


def _facts(counted: Counted) -> list[dict]:
    """What was counted, a row each."""
    facts = {"parameters": f"{counted.parameters:,}"}
    if counted.experts:
        facts["of these in experts"] = f"{counted.experts:,}"
    if counted.active_experts is not None:
        facts["read for a token"] = f"{counted.used:,}"
    facts |= {f"of these in {name}": f"{size:,}" for name, size in counted.towers}
    if not counted.no_cache:
        facts["cache"] = _in_words(counted)
    return [{"what": what, "counted": value} for what, value in facts.items()]


def _in_words(counted: Counted) -> str:
    """How the cache grows: layers of the same kind together."""
    alike = Counter(counted.cache)
    said = []
    for layer, number in alike.items():
        size = []
        if layer.a_token:
            limit = f" (of {layer.most:,} tokens at most)" if layer.most is not None else ""
            size.append(f"{layer.a_token:,} bytes a token{limit}")
        if layer.fixed:
            size.append(f"{layer.fixed:,} bytes for any length")
        said.append(f"{number} layers: {' and '.join(size) or 'nothing'}")
    return "; ".join(said) or "none: this configuration keeps nothing between tokens"


def _rows(parts: dict[str, float]) -> list[dict]:
    """GiB by part, and their sum with the margin."""
    rows = [{"component": part, "GiB": size} for part, size in parts.items() if size]
    total = sum(parts.values())
    return [*rows, {"component": "total with the runtime's margin", "GiB": formulas.with_margin(total)}]


def _verdict(tensors: float, simulated: Any, question: Question) -> fit.Verdict:
    """Whether it fits: the simulated step where there is one, what was counted where not."""
    name, available = fit.available_in(question.place)
    needed = simulated.total if simulated else formulas.with_margin(tensors)
    if needed <= available:
        return fit.Verdict(True, needed, available, name)
    return fit.Verdict(False, needed, available, name, (fit.larger_card(needed),))


# ---------------------------------------------------------------------------------------------- GGUF files


def _of_header(name: str, header: Header, question: Question) -> Answer:
    if question.method != "inference-fp16":
        raise ValueError(
            "A GGUF file holds its weights in its own formats, to write text: leave --method out. For another "
            "format or for training, name the config.json of the model."
        )
    rows = [{"part": "parameters", "size": f"{header.parameters:,}"}]
    rows += [{"part": f"weights in {one}", "size": f"{size / GIB:.3f} GiB"} for one, size in header.formats.items()]
    rows.append({"part": "weights in all", "size": f"{header.weight_bytes / GIB:.3f} GiB"})
    content = {"parameters": header.parameters, "weight bytes": header.weight_bytes, "formats": header.formats}
    answer = Answer(content, [Table(f"Read from the header: {name} ({header.architecture})", rows)])
    _add_reach_if_known(answer, lambda: loads.of_header(header, name), question)
    return answer


# ---------------------------------------------------------------------------------------------- how long, how fast


def _add_reach_if_known(answer: Answer, load: Callable[[], Load], question: Question) -> None:
    """As below; or why it can't be told."""
    try:
        _add_reach(answer, load(), question)
    except NotCountedError as error:
        answer.content["not known"] = str(error)
        answer.lines.append(f"Longest context and tokens a second are not told: {error}")


def _add_reach(answer: Answer, load: Load, question: Question) -> None:
    """The longest conversation that fits, and how fast text can come at most."""
    place, available = fit.available_in(question.place)
    longest = load.longest_context(available)
    answer.content["longest context"] = longest
    answer.lines.append(_context_line(load, longest, place))
    card = fit.card_of(question.place)
    if not card:
        answer.lines.append("How fast text can come depends on the card: name one with --gpu.")
        return
    if not longest:
        return
    speed = load.tokens_a_second(card.bandwidth, question.seq)
    answer.content["tokens a second at most"] = speed
    answer.lines.append(
        f"At most {speed:.0f} tokens a second after {question.seq} tokens: for each one, weights and cache "
        f"({(load.read + load.cache(question.seq)) / GIB:.2f} GiB) pass through {card.bandwidth:,} GB/s of memory. "
        "An upper bound for one conversation at a time; real programs reach a part of it."
    )


def _context_line(load: Load, longest: int, place: str) -> str:
    """The longest context in words."""
    if not longest:
        return f"Longest context: none. {load.needed(1):.1f} GiB are needed for the first token, {place} has less."
    made = f" It was made for {load.context:,}." if load.context else ""
    if longest == LONGEST:
        return f"Longest context: any length fits on {place}, because the cache stops growing.{made}"
    read = "one conversation, its prompt read in pieces of a few hundred tokens, cache in 16 bits"
    return f"Longest context that fits on {place}: {longest:,} tokens ({read}).{made}"
