"""`course evaluate` in its short form: bars with margin, and cards that quote what is measured."""

import json
import re
from dataclasses import asdict

import pytest

from course_utils.measures import Measure, share
from course_utils.models import bundled
from course_utils.workshop import evaluate
from course_utils.workshop.evaluate import BARS, MEASURES

N = {"prisma-clip": 200, "prisma-whisper": 60, "prisma-lm": 60}


@pytest.fixture(scope="module", params=bundled.NAMES)
def measured(request):
    """A model's name and its measures on fewer cases than the card's, and speeds (which no test looks at) of less."""
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "NEW", 20)
        return name, MEASURES[name](bundled.verify(name), 2027, N[name])


def card_rows(name: str) -> dict[str, list[float]]:
    """Measure -> the numbers of its row in the model card: value and the ends of its interval."""
    text = (bundled.folder(name) / "README.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: [float(n) for n in re.findall(r"-?[0-9.]+", " ".join(row[1:3]))] for row in rows[2:]}


def test_the_shipped_models_do_their_work(measured):
    name, measures = measured
    left = {"support task before QLoRA", "support task after QLoRA"}  # the notebook's own test, a minute long
    assert set(BARS[name]) - left <= set(measures)
    json.dumps([asdict(one) for one in measures.values()] + [evaluate.reached(measures, BARS[name])])  # for --json
    for measure, reached in evaluate.reached(measures, softened(BARS[name])).items():
        assert reached, f"{name}, {measure}: {measures[measure]}, bar {BARS[name][measure]}"


def softened(bars: dict[str, float]) -> dict[str, float]:
    """The bars with a margin for fewer cases and for a busy machine."""
    return {name: bar * (0.9 if bar > 0 else 1.5) for name, bar in bars.items()}


def test_the_card_says_what_is_measured(measured):
    name, measures = measured
    rows = card_rows(name)
    assert set(rows) >= set(measures), f"not in the card: {set(measures) - set(rows)}"
    for measure, found in measures.items():
        if found.unit in ("tokens/s", "s per s", "s"):
            continue  # how fast it is depends on the machine
        scale = 100 if found.unit == "%" else 1
        value, low, high = rows[measure][:3]
        assert low <= value <= high, measure
        # The two intervals must meet: the same quantity, measured on different cases.
        assert found.low * scale <= high + 0.05 and low - 0.05 <= found.high * scale, (
            measure,
            str(found),
            rows[measure],
        )


def test_ceilings_and_floors():
    measures = {"up": share([True] * 9 + [False]), "down": share([True] + [False] * 9)}
    assert evaluate.reached(measures, {"up": 0.9, "down": -0.1}) == {"up": True, "down": True}
    assert evaluate.reached(measures, {"up": 0.95, "down": -0.05}) == {"up": False, "down": False}
    assert evaluate.score(measures, {"up": 0.9, "down": -0.1}) == pytest.approx(0.4)


def test_a_new_model_is_compared_with_the_shipped_one(monkeypatch, tmp_path):
    quality = {tmp_path: 0.7}

    def measure(folder, seed, n):
        value = quality.get(folder, 0.6)
        return {"orders": Measure(value, value, value, n, "%")}

    monkeypatch.setitem(MEASURES, "prisma-clip", measure)
    monkeypatch.setitem(BARS, "prisma-clip", {"orders": 0.9})
    assert evaluate.verdict("prisma-clip", tmp_path).startswith(
        "Better than the shipped prisma-clip: 0.700 against 0.600"
    )
    quality[tmp_path] = 0.6
    assert evaluate.verdict("prisma-clip", tmp_path).startswith("Not better")
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    (tmp_path / "prisma-clip").mkdir()
    assert evaluate.verdict("prisma-clip", tmp_path).startswith("No prisma-clip is shipped yet")
