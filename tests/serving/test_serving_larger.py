"""A model of which a part is on disk, or elsewhere, writes the same; and takes the memory that it should."""

import sys
from pathlib import Path

import pytest

from course_utils import ranks
from course_utils.serving import larger


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A small random model, and its MB."""
    folder = tmp_path_factory.mktemp("model")
    size = larger.random_llama(folder, layers=8, width=512)
    return folder, size / 1e6


@pytest.fixture(scope="module")
def whole(saved: tuple[Path, float]) -> larger.Report:
    """What the model writes when all of it is in memory."""
    return larger.from_disk(saved[0], 0, tokens=3)


def test_the_last_layers_stay_on_disk() -> None:
    places = larger.placement(3, 2)
    assert [places[f"model.layers.{layer}"] for layer in range(3)] == ["cpu", "disk", "disk"]
    assert places["lm_head"] == "cpu"


def test_on_disk_the_same_tokens_with_less_memory(saved: tuple[Path, float], whole: larger.Report) -> None:
    folder, size = saved
    disk = larger.from_disk(folder, 8, tokens=3)
    assert disk.tokens == whole.tokens and len(whole.tokens) == 3
    assert disk.first_logits == pytest.approx(whole.first_logits, abs=1e-4)
    assert whole.weights == pytest.approx(size, rel=0.01)
    if sys.platform == "linux":
        assert disk.grown < 0.7 * whole.grown and whole.grown > 0.9 * size
    assert disk.weights < 0.25 * size  # the embedding and the head are left


def test_two_processes_hold_half_each_and_write_the_same(saved: tuple[Path, float], whole: larger.Report) -> None:
    folder, size = saved
    parts = larger.in_two(folder, tokens=3)
    assert [part.tokens for part in parts] == [whole.tokens] * 2
    for part in parts:
        assert part.first_logits == pytest.approx(whole.first_logits, abs=1e-4)
        assert part.weights == pytest.approx(size / 2, rel=0.05)


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ranks.RanksError, match="(?s)last words.*Error"):
        larger.from_disk(tmp_path, 0)


def test_reading_has_a_speed(saved: tuple[Path, float]) -> None:
    folder, _ = saved
    assert larger.read_speed(folder, from_disk=False) > 0
    cold = larger.read_speed(folder, from_disk=True)
    assert cold is None or cold > 0
