"""Exercises: stubs are open, solutions pass, planted mistakes get their own diagnosis, and nothing ever stops."""

import inspect
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import planted_7_2
import planted_7_3
import planted_7_4
import planted_7_5
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from course_utils import cli
from course_utils.exercises import check, hint, progress, quiz, registry, solution
from course_utils.exercises import diagnosis as diagnosing
from course_utils.exercises.unit_7_1 import solutions as reference
from course_utils.settings import ROOT, TEXT

EXERCISES, QUIZZES = registry.exercises(), registry.quizzes()
every_exercise = pytest.mark.parametrize("name", EXERCISES)


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    """A progress file of the test's own, and nothing in memory."""
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "kept" / "progress.json"))
    fresh_session(monkeypatch)
    return tmp_path / "kept" / "progress.json"


def fresh_session(monkeypatch) -> None:
    """What a new kernel knows: nothing."""
    for name, value in {"_memory": {}, "_in_memory": False, "_said": set()}.items():
        monkeypatch.setattr(progress, name, value)


@pytest.fixture
def said(capsys) -> Callable[[], str]:
    """A function that gives what was printed since the last call, in one line."""
    return lambda: " ".join(capsys.readouterr().out.split())


def made(source: str, name: str) -> Callable:
    """The function `name` of a cell, run with what the notebook has imported."""
    cell = {
        "__name__": "__main__",
        "torch": torch,
        "Tensor": Tensor,
        "F": F,
        "Callable": Callable,
        "Sequence": Sequence,
    }
    cell |= {"json": json, "math": math, "re": re, "unicodedata": unicodedata}
    exec(compile(source, "<cell>", "exec"), cell)
    return cell[name]


def own_name(name: str) -> str:
    return name.rpartition(".")[2]


# What every exercise has to fulfil


@every_exercise
def test_an_exercise_states_what_it_asks(name: str) -> None:
    task = EXERCISES[name]
    assert registry.unit_of(name) in ("7.1", "7.2", "7.3", "7.4", "7.5") and own_name(name) == task.stub.__name__
    assert task.difficulty in registry.DIFFICULTIES and 5 <= task.minutes <= 60
    assert len(task.hints) >= 2 and task.notice.endswith(".") and name not in QUIZZES
    ours, theirs = (inspect.signature(f).parameters.values() for f in (task.stub, task.reference))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]
    assert all(p.annotation is not p.empty for p in ours)
    assert task.stub.__doc__ and task.stub_source.startswith(f"def {own_name(name)}(")
    assert task.stub_source.endswith("    # Your code here\n    raise NotImplementedError\n")


@every_exercise
def test_the_stub_is_open_and_the_notebook_goes_on_with_the_reference(name: str, said, file) -> None:
    task = EXERCISES[name]
    assert check(name, made(task.stub_source, own_name(name))) is task.reference
    text = said()
    assert text.startswith(f"open: {task.title} ({task.difficulty}, about {task.minutes} minutes). hint(")
    assert "the course's own solution" in text and not file.exists()


@every_exercise
def test_what_solution_prints_passes_and_stays_the_students_own(name: str, capsys, said) -> None:
    hint(name)  # so that the solution comes without the advice to ask for hints
    progress.put("exercises", name, progress.Record("tried", 1))
    said()
    solution(name)
    yours = made(capsys.readouterr().out, own_name(name))
    assert check(name, yours) is yours
    assert said().startswith(f"passed: {EXERCISES[name].title}. From here on the notebook uses your function. What to")
    assert progress.get("exercises", name).status == "done"


@every_exercise
def test_known_mistakes_can_be_told_apart(name: str, monkeypatch) -> None:
    """No two mistakes give the same result, or one would get the other's diagnosis."""
    tables = []
    real = diagnosing.Attempt.compare

    def compare(self, inputs, wanted, mistakes=None, **rest):
        tables.append([("right", wanted), *(mistakes or {}).items()])
        return real(self, inputs, wanted, mistakes, **rest)

    monkeypatch.setattr(diagnosing.Attempt, "compare", compare)
    diagnosing.examine(EXERCISES[name], made(EXERCISES[name].reference_source, own_name(name)))
    assert sum(map(len, tables)) > 3
    for table in tables:
        twins = [(a[0], b[0]) for a, b in combinations(table, 2) if diagnosing.near(a[1], b[1])]
        assert twins == []


def test_a_second_run_of_the_check_cell_is_not_a_success(said) -> None:
    stub = EXERCISES["7.1.contrastive_loss"].stub
    once = check("7.1.contrastive_loss", stub)
    said()
    assert check("7.1.contrastive_loss", once) is once
    assert "the course's own solution" in said()
    assert progress.get("exercises", "7.1.contrastive_loss") == progress.Record()


# The references against the libraries


@pytest.mark.parametrize("n, d", [(1, 4), (5, 3), (32, 16)])
def test_the_loss_is_open_clips(n: int, d: int) -> None:
    from open_clip import ClipLoss

    image, text = (F.normalize(torch.randn(n, d), dim=-1) for _ in range(2))
    scale = torch.tensor(7.0)
    ours, theirs = reference.contrastive_loss(image, text, scale), ClipLoss()(image, text, scale)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_zero_shot_is_open_clips() -> None:
    from open_clip import build_zero_shot_classifier

    class Tower(torch.nn.Module):
        def encode_text(self, texts: list[str], normalize: bool) -> Tensor:
            return reference.encode_texts(texts)

    names, templates = [f"toy {i}" for i in range(7)], ("{}", "a photo of {}", "the {} here")
    fills = [template.format for template in templates]
    classes = build_zero_shot_classifier(Tower(), lambda texts: _List(texts), names, fills)
    images = F.normalize(torch.randn(50, 8), dim=-1)
    ours = reference.zero_shot(images, names, templates, reference.encode_texts)
    assert torch.equal(ours, (images @ classes).argmax(1)) and len(set(ours.tolist())) > 3


class _List(list):
    """open_clip moves its tokens to a device."""

    def to(self, _):
        return self


def test_cross_attention_is_torchs() -> None:
    q, k, v = torch.randn(3, 4, 8), torch.randn(3, 6, 8), torch.randn(3, 6, 8)
    missing = torch.rand(3, 6) < 0.4
    missing[:, 0] = False
    assert missing.any()
    ours, theirs = reference.cross_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(ours, theirs, atol=1e-5)
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=~missing[:, None])
    assert torch.allclose(reference.cross_attention(q, k, v, missing), masked, atol=1e-5)
    assert not torch.allclose(masked, theirs, atol=1e-3)


def test_word_errors_are_the_fewest() -> None:
    def fewest(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return len(a) + len(b)
        swap = fewest(a[1:], b[1:]) + (a[0] != b[0])
        return min(fewest(a[1:], b) + 1, fewest(a, b[1:]) + 1, swap)

    rng = np.random.default_rng(0)
    said, heard = ([" ".join(rng.choice(["a", "b", "c"], n)) for n in rng.integers(0, 6, 20)] for _ in range(2))
    errors = sum(fewest(s.split(), h.split()) for s, h in zip(said, heard, strict=True))
    assert reference.word_error_rate(said, heard) == errors / sum(len(s.split()) for s in said)


def test_late_fusion_is_a_product_of_powers() -> None:
    a, b = torch.rand(4, 5).softmax(1), torch.rand(4, 5).softmax(1)
    product = a ** (3 / 4) * b ** (1 / 4)
    ours = reference.late_fusion([a.log(), None, b.log()], [3.0, 9.0, 1.0])
    assert torch.allclose(ours, product / product.sum(1, keepdim=True), atol=1e-5)
    with pytest.raises(ValueError, match="every modality is missing"):
        reference.late_fusion([None], [1.0])


# Planted mistakes


def truth_of(x: Tensor) -> Tensor:
    return torch.arange(len(x))


def both_ways(logits: Tensor) -> Tensor:
    return (F.cross_entropy(logits, truth_of(logits)) + F.cross_entropy(logits.T, truth_of(logits))) / 2


def in_place_loss(image, text, scale):
    image *= scale
    return both_ways(image @ text.T)


def softmax_twice(image, text, scale):
    logits, truth = scale * image @ text.T, truth_of(image)
    return (F.cross_entropy(logits.softmax(1), truth) + F.cross_entropy(logits.T.softmax(1), truth)) / 2


def filled(names, templates, encode_texts) -> Tensor:
    return torch.stack([encode_texts([t.format(name) for name in names]) for t in templates])


def unit_mean(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.mean(0), dim=-1)


def in_the_wrong_order(images, names, templates, encode_texts):
    vectors = encode_texts([t.format(name) for t in templates for name in names])
    return (images @ unit_mean(vectors.view(len(names), len(templates), -1).transpose(0, 1)).T).argmax(1)


def letter_by_letter(images, names, templates, encode_texts):
    return (images @ torch.stack([encode_texts(name).mean(0) for name in names]).T).argmax(1)


def word_by_word(reference, hypothesis):
    errors = words = 0
    for said, heard in zip(reference, hypothesis, strict=True):
        said, heard = said.split(), heard.split()
        errors += sum(a != b for a, b in zip(said, heard, strict=False)) + abs(len(said) - len(heard))
        words += len(said)
    return errors / words


def of_sets(reference, hypothesis):
    pairs = [(set(s.split()), set(h.split())) for s, h in zip(reference, hypothesis, strict=True)]
    return sum(max(len(s - h), len(h - s)) for s, h in pairs) / sum(len(s.split()) for s in reference)


def without_insertions(reference, hypothesis):
    errors = sum(w not in h.split() for s, h in zip(reference, hypothesis, strict=True) for w in s.split())
    return errors / sum(len(s.split()) for s in reference)


def errors(said: list[str], heard: list[str]) -> int:
    """Edit distance, row by row."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, start=1):
        above, row = row, [i]
        for j, other in enumerate(heard):
            swapped = above[j] + (word != other)
            row.append(min(swapped, above[j + 1] + 1, row[j] + 1))
    return row[-1]


def rate(said: Sequence[str], heard: Sequence[str]) -> float:
    pairs = [(s.split(), h.split()) for s, h in zip(said, heard, strict=True)]
    words = sum(len(s) for s, _ in pairs)
    return sum(errors(s, h) for s, h in pairs) / words


def letters(text: str) -> str:
    return " ".join(text.replace(" ", "_"))


def fused(predictions, weights, divisor=None):
    there = [(w, p) for w, p in zip(weights, predictions, strict=True) if p is not None]
    if not there:
        raise ValueError("nothing")
    return sum(w * p for w, p in there) / (divisor or sum(w for w, _ in there))


def out_of_step(predictions, weights):
    there = [p for p in predictions if p is not None]
    return fused(there, weights[: len(there)]).softmax(-1)


def takes_none_out(predictions, weights):
    while None in [p for p in predictions if p is None]:
        predictions.remove(None)
    return fused(predictions, weights[: len(predictions)]).softmax(-1)


def attended(q, k, v, missing=None, scale=0.5, dim=-1, fill=float("-inf")):
    """`scale` is the power of d."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** scale
    if missing is not None:
        scores = scores.masked_fill(missing[:, None], fill)
    return scores.softmax(dim) @ v


def masked_late(q, k, v, missing=None):
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights if missing is None else weights * ~missing[:, None]) @ v


def misses_a_dimension(queries, keys, values, missing=None):
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
    if missing is not None:
        scores = scores.masked_fill(missing, float("-inf"))
    return scores.softmax(-1) @ values


PLANTED = {
    "7.1.contrastive_loss": [
        (lambda i, t, s: F.cross_entropy(s * i @ t.T, truth_of(i)), "only from the image to the text"),
        (lambda i, t, s: F.cross_entropy(s * t @ i.T, truth_of(i)), "only from the text to the image"),
        (lambda i, t, s: 2 * both_ways(s * i @ t.T), "twice as large"),
        (lambda i, t, s: both_ways(i @ t.T), "does not use `scale`"),
        (lambda i, t, s: both_ways(i @ t.T / s), "divide by `scale`"),
        (lambda i, t, s: both_ways(i @ t.T * s.exp()), "exponential of `scale`"),
        (lambda i, t, s: both_ways((s * i @ t.T).softmax(-1)), "softmax before the cross-entropy"),
        (softmax_twice, "probabilities to the cross-entropy"),
        (lambda i, t, s: -both_ways(s * i @ t.T), "wrong sign"),
        (lambda i, t, s: len(i) * both_ways(s * i @ t.T), "sum over all pairs"),
        (lambda i, t, s: -s * (i * t).sum(1).mean(), "only pulls true pairs together"),
        (lambda i, t, s: both_ways(s * i @ t.T).detach(), "no gradient flows"),
        (lambda i, t, s: both_ways(s * i @ t.T).item(), "also cut the gradient"),
        (lambda i, t, s: F.cross_entropy(s * i @ t.T, truth_of(i), reduction="none"), "has the shape (3,)"),
        (in_place_loss, "changes its input `image`"),
    ],
    "7.1.zero_shot": [
        (lambda i, n, t, e: (i @ e(list(n)).T).argmax(1), "encode the bare class names"),
        (lambda i, n, t, e: (i @ filled(n, t, e)[0].T).argmax(1), "only the first template"),
        (lambda i, n, t, e: (i @ filled(n, t, e)[-1].T).argmax(1), "only the last template"),
        (lambda i, n, t, e: (i @ filled(n, t, e).mean(0).T).argmax(1), "back to length 1"),
        (lambda i, n, t, e: (i @ filled(n, t, e).mT).amax(0).argmax(1), "best single template"),
        (lambda i, n, t, e: (i @ unit_mean(filled(n, t, e)).T).argmax(0), "a picture for each class"),
        (lambda i, n, t, e: i @ unit_mean(filled(n, t, e)).T, "returns the similarities"),
        (lambda i, n, t, e: unit_mean(filled(n, t, e)), "returns the class vectors"),
        (lambda i, n, t, e: (i @ unit_mean(filled(n, t, e)).T).argmax(1).float(), "they are floats"),
        (lambda i, n, t, e: (i @ unit_mean(filled(n, t, e)).T).argmax(1).tolist(), "returns a list"),
        (lambda i, n, t, e: [n[k] for k in (i @ unit_mean(filled(n, t, e)).T).argmax(1)], "returns a list"),
        (lambda i, n, t, e: (i @ filled(n, t, e).mean(1).T).argmax(1), "numbers differ, the first at"),
        (in_the_wrong_order, "mixed up"),
        (letter_by_letter, "letter by letter"),
    ],
    "7.1.word_error_rate": [
        (word_by_word, "add the difference in length"),
        (lambda s, h: rate(h, s), "divide by the words heard"),
        (lambda s, h: sum(map(rate, [[x] for x in s], [[x] for x in h])) / len(s), "mean of the sentences' rates"),
        (lambda s, h: rate(map(letters, s), map(letters, h)), "compares letters"),
        (lambda s, h: 100 * rate(s, h), "in per cent"),
        (lambda s, h: 1 - rate(s, h), "share of words that are right"),
        (lambda s, h: rate(s, h) * sum(len(x.split()) for x in s), "number of errors"),
        (lambda s, h: min(1.0, rate(s, h)), "ends at 1"),
        (lambda s, h: torch.tensor(rate(s, h)), "A plain number is wanted"),
        (without_insertions, "only words that are missing or swapped"),
        (of_sets, "compare sets"),
    ],
    "7.1.late_fusion": [
        (lambda p, w: fused([x if x is None else x.exp() for x in p], w), "mean of the probabilities"),
        (lambda p, w: fused(p, w), "mean of the log-probabilities. Softmax"),
        (lambda p, w: fused(p, w).log_softmax(-1), "Use softmax, not log_softmax"),
        (lambda p, w: fused(p, w).exp(), "do not add up to 1"),
        (lambda p, w: fused(p, [1.0] * len(w)).softmax(-1), "does not use the weights"),
        (lambda p, w: fused(p, w, 1).softmax(-1), "divide by the sum of the weights"),
        (lambda p, w: fused(p, w, len(w)).softmax(-1), "divide by the number of modalities"),
        (lambda p, w: fused(p, w).softmax(0), "goes over the cases"),
        (lambda p, w: fused(p, w, sum(w)).softmax(-1), "still count the weight"),
        (lambda p, w: (sum(a * b for a, b in zip(w, p, strict=True)) / sum(w)).softmax(-1), "stopped with TypeError"),
        (lambda p, w: fused(p, w).softmax(-1) if any(x is not None for x in p) else None, "It returned None instead"),
        (lambda p, w: fused(p, w).softmax(-1) if p != [None, None] else 1 / 0, "with ZeroDivisionError instead"),
        (out_of_step, "out of step"),
        (takes_none_out, "changes its input `predictions`"),
    ],
    "7.1.cross_attention": [
        (lambda q, k, v, m=None: attended(q, k, v, m, scale=0), "not scaled"),
        (lambda q, k, v, m=None: attended(q, k, v, m, scale=1), "Divide by its square root"),
        (lambda q, k, v, m=None: attended(q, k, v, m, dim=1), "goes over the queries"),
        (lambda q, k, v, m=None: attended(q, k, v), "does not use `missing`"),
        (lambda q, k, v, m=None: attended(q, k, v, None if m is None else ~m), "the other way round"),
        (lambda q, k, v, m=None: attended(q, k, v, m, fill=0.0), "scores of missing tokens to 0"),
        (lambda q, k, v, m=None: attended(q, k, k, m), "mean of the keys"),
        (lambda q, k, v, m=None: attended(q, q, q, m), "from the queries to themselves"),
        (lambda q, k, v, m=None: attended(k, q, q), "has the shape (1, 3, 2)"),
        (lambda q, k, v, m=None: attended(q, k, torch.eye(k.shape[1])), "returns the weights"),
        (lambda q, k, v, m=None: q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 @ v, "softmax is missing"),
        (lambda q, k, v, m=None: attended(q, k, v, m) * (float("nan") if m is not None else 1), "holds nan"),
        (lambda q, k, v: attended(q, k, v), "called with (queries, keys, values, missing)"),
        (masked_late, "after the softmax"),
        (misses_a_dimension, "scores = scores.masked_fill(missing"),
    ],
    **planted_7_2.PLANTED,
    **planted_7_3.PLANTED,
    **planted_7_4.PLANTED,
    **planted_7_5.PLANTED,
}


@pytest.mark.parametrize(
    ("name", "wrong", "words"), [(name, *one) for name, planted in PLANTED.items() for one in planted]
)
def test_a_planted_mistake_gets_its_diagnosis(name: str, wrong: Callable, words: str, said) -> None:
    assert check(name, wrong) is EXERCISES[name].reference
    text = said()
    assert text.startswith(f"not yet: {EXERCISES[name].title} ") and words in text
    assert "Until then the notebook uses the course's own solution." in text
    assert progress.get("exercises", name) == progress.Record("tried", attempts=1)


@every_exercise
def test_every_exercise_has_planted_mistakes(name: str) -> None:
    assert len({words for _, words in PLANTED[name]}) >= 3


# Whatever a student's function does


class Odd:
    """A result whose every use fails."""

    @property
    def shape(self):
        raise OSError("no shape")

    def __eq__(self, other):
        raise OSError("no equality")


def divides(*_):
    nothing = 0
    return 1 / nothing


def forever(*inputs):
    return forever(*inputs)


SABOTEURS = [
    (divides, "stopped with ZeroDivisionError: division by zero"),
    (forever, "RecursionError"),
    (lambda *_: sys.exit(1), "SystemExit"),
    (lambda *_: None, "returns nothing (None). Is the `return` missing?"),
    (lambda *_: np.zeros(3), "returns a NumPy array."),
    (lambda *_: "0.5", "returns a str"),
    (lambda *_: torch.empty(2, device="meta").tolist(), "Cannot copy out of meta tensor"),
    (lambda *_: Odd(), "returns an Odd"),
    (lambda: 1, "takes 0 positional arguments"),
    (None, "should be a function. What came is None."),
    (3.0, "should be a function. What came is a float."),
]


@every_exercise
@pytest.mark.parametrize(("function", "words"), SABOTEURS, ids=[words[:20] for _, words in SABOTEURS])
def test_nothing_stops_the_notebook(name: str, function, words: str, said) -> None:
    if words == "returns a str" and EXERCISES[name].reference.__annotations__["return"] is str:
        words = "wanted: "  # a text is wanted, and another one
    assert check(name, function) is EXERCISES[name].reference
    text = said()
    assert text.startswith("not yet: ") and words in text


def test_results_that_cannot_be_compared_are_explained(said) -> None:
    check("7.1.zero_shot", lambda images, *_: torch.zeros(60, device="meta"))
    assert "can't be examined (NotImplementedError" in said()


def test_an_exception_is_shown_with_its_line_and_the_inputs(said) -> None:
    check("7.1.word_error_rate", divides)
    number = inspect.getsourcelines(divides)[1] + 2
    text = said()
    assert f"line {number}: return 1 / nothing It was called with reference = ['show me the red cube'" in text
    assert __file__ not in text


def test_an_exception_inside_a_library_is_shown_at_the_students_line(said) -> None:
    check("7.1.cross_attention", made("def f(queries, keys, values):\n    return F.linear(queries, None)\n", "f"))
    assert "stopped with TypeError" in (text := said()) and "line 2" in text


def test_a_mistake_nobody_foresaw_is_shown_with_input_and_both_results(said) -> None:
    check("7.1.contrastive_loss", lambda image, text, scale: torch.tensor(0.25))
    text = said()
    assert "image = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]" in text and "scale = 2.0" in text
    wanted = float(re.search(r"wanted: ([\d.]+) yours: 0.25 ", text).group(1))
    ours = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    assert wanted == pytest.approx(reference.contrastive_loss(*ours, torch.tensor(2.0)).item(), abs=1e-4)


@every_exercise
def test_a_check_says_the_same_every_time_and_leaves_random_numbers_alone(name: str, said) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    texts = []
    for _ in range(2):
        check(name, EXERCISES[name].stub)
        check(name, divides)
        check(name, made(EXERCISES[name].reference_source, own_name(name)))
        texts.append(said())
    assert texts[0] == texts[1] and torch.equal(state, torch.get_rng_state())


def test_lines_are_short(capsys) -> None:
    for name in EXERCISES:
        check(name, EXERCISES[name].stub)
        for _ in range(6):
            hint(name)
    for name, task in QUIZZES.items():
        for letter in (None, *task.letters):
            quiz(name, letter)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 88


def test_an_unknown_name_is_the_authors_mistake() -> None:
    for call in (lambda name: check(name, len), hint, solution):
        with pytest.raises(ValueError, match=r"no exercise '7.1.fusion'.*7\.1\.zero_shot, 7\.1\.contrastive_loss"):
            call("7.1.fusion")
    with pytest.raises(ValueError, match=r"no quiz '7.1.zero_shot'.*7\.1\.fusion"):
        quiz("7.1.zero_shot")


# Hints and solutions


@every_exercise
def test_hints_come_step_by_step(name: str, said, monkeypatch) -> None:
    hints = EXERCISES[name].hints
    for step, words in enumerate(hints, start=1):
        fresh_session(monkeypatch)  # a new kernel goes on where the last one stopped
        hint(name)
        assert (text := said()).startswith(f"Hint {step} of {len(hints)}: {' '.join(words.split())}")
        assert ("the last one" in text) is (step == len(hints))
        assert progress.get("exercises", name).hints == step
    hint(name)
    assert all(" ".join(words.split()) in (text := said() or text) for words in hints) and "solution(" in text
    assert progress.get("exercises", name) == progress.Record(hints=len(hints))


def test_solution_recommends_a_try_first_and_shows_all_that_is_needed(said) -> None:
    solution("7.1.word_error_rate")
    text = said()
    assert "not tried it yet" in text and text.index("def word_errors(") < text.index("def word_error_rate(")
    assert progress.get("exercises", "7.1.word_error_rate").solution_shown
    check("7.1.word_error_rate", divides)
    said()
    solution("7.1.word_error_rate")
    assert said().startswith("def word_errors(")


# Quizzes


@pytest.mark.parametrize("name", QUIZZES)
def test_a_quiz_explains_every_answer(name: str, said) -> None:
    task = QUIZZES[name]
    quiz(name)
    text = said()
    assert text.startswith(task.question) and len(task.answers) >= 3 and f'quiz("{name}", "a")' in text
    assert sum(one.right for one in task.answers) == 1
    assert len({one.explanation for one in task.answers}) == len(task.answers)
    for letter, one in task.letters.items():
        assert f"{letter}) {one.text}" in text
        quiz(name, f" {letter.upper()}) ")
        assert said() == f"{'Right' if one.right else 'No'}. {one.explanation}"


def test_right_answers_are_not_all_behind_one_letter() -> None:
    letters = [letter for task in QUIZZES.values() for letter, one in task.letters.items() if one.right]
    assert len(set(letters)) >= 3


def test_quizzes_are_recorded_and_bad_letters_refused() -> None:
    quiz("7.1.fusion")
    assert progress.get("quizzes", "7.1.fusion") == progress.Record()
    quiz("7.1.fusion", "a")
    assert progress.get("quizzes", "7.1.fusion") == progress.Record("tried", attempts=1)
    quiz("7.1.fusion", "c")
    quiz("7.1.fusion", "a")
    record = progress.get("quizzes", "7.1.fusion")
    assert (record.status, record.attempts) == ("done", 2) and re.fullmatch(r"\d{4}-\d\d-\d\d", record.done_on)
    for letter in ("d", "", "ab", 1):
        with pytest.raises(ValueError, match="There are a, b, c."):
            quiz("7.1.fusion", letter)


# Progress


def test_progress_survives_and_never_goes_back(file: Path, monkeypatch) -> None:
    name = "7.1.late_fusion"
    check(name, divides)
    check(name, divides)
    assert progress.get("exercises", name) == progress.Record("tried", attempts=2)
    right = made(EXERCISES[name].reference_source, "late_fusion")
    check(name, right)
    fresh_session(monkeypatch)
    done = progress.get("exercises", name)
    assert (done.status, done.attempts) == ("done", 3) and re.fullmatch(r"\d{4}-\d\d-\d\d", done.done_on)
    check(name, divides)
    check(name, EXERCISES[name].stub)
    check(name, right)
    assert progress.get("exercises", name) == done
    content = json.loads(file.read_text())
    assert content["version"] == 1 and content["exercises"][name]["done_on"] == done.done_on


def test_progress_is_outside_the_course(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("COURSE_PROGRESS_FILE")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert progress.file() == tmp_path / ".local" / "share" / "genai-course" / "progress.json"
    assert not progress.file().is_relative_to(ROOT)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert progress.file() == tmp_path / "data" / "genai-course" / "progress.json"


def test_a_read_only_home_is_said_aloud(tmp_path, monkeypatch, said) -> None:
    (tmp_path / "no folder").write_text("")
    monkeypatch.delenv("COURSE_PROGRESS_FILE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "no folder"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    hint("7.1.zero_shot")
    hint("7.1.zero_shot")
    assert (text := said()).count("home folder can't be written") == 1 and "may not last" in text
    (kept,) = (tmp_path / "temp").glob("genai-course-*/progress.json")
    assert progress.file() == kept


def test_off_means_that_nothing_is_written(file: Path, monkeypatch, said) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    hint("7.1.zero_shot")
    hint("7.1.zero_shot")
    assert "Hint 2 of 3" in said()  # the steps of this session count
    check("7.1.zero_shot", divides)
    quiz("7.1.fusion", "c")
    assert not file.parent.exists() and progress.get("quizzes", "7.1.fusion").status == "done"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch, said, error) -> None:
    hint("7.1.zero_shot")
    before = file.read_text()

    def fail(*_):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(progress.os, "replace", fail)
        if isinstance(error, OSError):
            hint("7.1.zero_shot")
            assert "can't be kept in a file (No space left on device)" in said()
            hint("7.1.zero_shot")
            assert "Hint 3 of 3" in (text := said()) and "No space" not in text  # said once, known in memory
        else:
            with pytest.raises(KeyboardInterrupt):
                hint("7.1.zero_shot")
    assert file.read_text() == before and os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"exercises": {',
        b'{"exercises": \xff\xfe',
        b'{"exercises": []}',
        b'{"exercises": {"7.1.zero_shot": 3}}',
        b'{"exercises": {"7.1.zero_shot": {"hints": "many"}}}',
        b'{"quizzes": {"7.1.fusion": {"attempts": true}}}',
    ],
)
def test_a_damaged_file_is_kept_aside(file: Path, content: bytes, said) -> None:
    file.parent.mkdir()
    for aside in (".broken", ".broken2"):
        file.write_bytes(content)
        hint("7.1.zero_shot")
        assert "damaged" in (text := said()) and "Hint 1 of 3" in text
        assert file.with_name(file.name + aside).read_bytes() == content
        assert json.loads(file.read_text())["exercises"]["7.1.zero_shot"]["hints"] == 1


def test_a_file_that_cannot_be_read_is_left_alone(file: Path, said) -> None:
    file.mkdir(parents=True)  # reading a folder fails, also for root
    hint("7.1.zero_shot")
    hint("7.1.zero_shot")
    assert "Hint 2 of 3" in (text := said()) and text.count("can't be kept in a file") == 1
    assert file.is_dir() and not progress.recording()


def test_what_a_newer_course_has_written_is_kept(file: Path) -> None:
    file.parent.mkdir()
    newer = {"version": 2, "exercises": {"7.9.new": {"status": "done", "stars": 3}}, "badges": ["a"]}
    file.write_text(json.dumps(newer))
    hint("7.1.zero_shot")
    content = json.loads(file.read_text())
    assert content["exercises"].pop("7.1.zero_shot")["hints"] == 1 and content == newer


# The command, imports, notebooks


def course(*arguments: str):
    result = CliRunner().invoke(cli.app, ["progress", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_course_progress_as_table_and_json(file: Path) -> None:
    hint("7.1.zero_shot")
    check("7.1.cross_attention", divides)
    solution("7.1.late_fusion")
    quiz("7.1.fusion", "c")
    report = json.loads(course("--json").stdout)
    assert report["file"] == str(file) and [one["name"] for one in report["exercises"]] == list(EXERCISES)
    rows = {one["name"]: one for one in report["exercises"] + report["quizzes"]}
    assert rows["7.1.zero_shot"]["hints"] == 1 and rows["7.1.zero_shot"]["hints_in_all"] == 3
    assert rows["7.1.cross_attention"]["status"] == "tried" and rows["7.1.cross_attention"]["unit"] == "7.1"
    assert rows["7.1.late_fusion"]["solution_shown"] and rows["7.1.fusion"]["status"] == "done"
    table = course().stdout
    assert all(name in table for name in [*EXERCISES, *QUIZZES]) and "Unit 7.1" in table
    line = next(line for line in table.splitlines() if "7.1.zero_shot" in line)
    assert all(words in line for words in ("A classifier made of sentences", "easy", "10", "open", "1 of 3"))
    assert "open, solution seen" in table and "sent nowhere" in table


def test_course_progress_json_stays_whole_beside_a_report(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"exercises": {')
    result = course("--json")
    assert json.loads(result.stdout)["exercises"][0]["status"] == "open" and "damaged" in result.stderr


def test_course_progress_says_that_nothing_is_recorded(file: Path, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    assert "Nothing is recorded" in course().stdout and json.loads(course("--json").stdout)["file"] is None


def test_exercises_and_progress_need_no_torch(file: Path) -> None:
    code = (
        "import sys; from course_utils.exercises import hint, quiz, registry\n"
        "hint('7.1.zero_shot'); quiz('7.1.fusion', 'c'); registry.exercises()\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("set()\n") and progress.get("quizzes", "7.1.fusion").status == "done"


def test_notebooks_hold_the_stubs_word_for_word() -> None:
    for page in sorted(TEXT.rglob("*.py")):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r'\bcheck\("([^"]+)"', text):
            assert EXERCISES[name].stub_source in text, f"{page.name}: the stub of {name} differs"
        assert set(re.findall(r'\bquiz\("([^"]+)"', text)) <= set(QUIZZES)
