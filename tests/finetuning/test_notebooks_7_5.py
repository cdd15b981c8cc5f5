"""What unit 7.5's notebooks and notes say: whose numbers they are, and that a second run gives the same."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_utils.finetuning import lora_by_hand
from course_utils.settings import NOTEBOOKS, TEXT
from course_utils.workshop import notebooks

SOURCES = sorted(TEXT.rglob("7.5_*.py"))
NOTES = sorted((NOTEBOOKS / "teaching").glob("7.5_*.md"))


@cache
def notebook(source: Path) -> Any:
    return notebooks.convert(source)


def code_cells(source: Path) -> list[str]:
    return [cell.source for cell in notebook(source).cells if cell.cell_type == "code"]


def prose(source: Path) -> str:
    cells = [cell.source for cell in notebook(source).cells if cell.cell_type == "markdown"]
    return " ".join(" ".join(cells).split())


def operations(layers: nn.Module, width: int) -> int:
    """Of one step, forward and backward, for 64 tokens."""
    with FlopCounterMode(display=False) as counter:
        layers(torch.ones(64, width)).sum().backward()
    return counter.get_total_flops()


def test_lora_leaves_out_about_a_third_of_a_steps_arithmetic() -> None:
    width = 512
    layers = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(8)])
    full = operations(layers, width)
    lora_by_hand.add_lora(layers, rank=4, alpha=8)
    assert 0.64 < operations(layers, width) / full < 0.70


def test_no_note_and_no_notebook_denies_that_lora_saves_arithmetic() -> None:
    texts = [prose(path) for path in SOURCES] + [path.read_text(encoding="utf-8") for path in NOTES]
    for text in texts:
        assert "not arithmetic" not in text and '*"LoRA makes training faster."*' not in text


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_check_cell_prints_its_check_only(source: Path) -> None:
    for cell in code_cells(source):
        name = re.match(r'(\w+) = check\("7\.5\.(\w+)", (\w+)\)', cell)
        if name:
            assert len(cell.splitlines()) == 1, f"another cell should compare, and say whose {name[1]} runs"
        assert name or 'check("7.5.' not in cell


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_follows_a_check_says_whose_function_runs(source: Path) -> None:
    cells = code_cells(source)
    for cell, following in zip(cells, cells[1:], strict=False):
        name = re.match(r'(\w+) = check\("7\.5\.', cell)
        if name:
            assert f"{{whose({name[1]})}}" in following


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_marks_of_a_chat_template_come_from_the_tokenizer(source: Path) -> None:
    for cell in code_cells(source):
        assert "<end>" not in cell


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_labels_are_those_that_a_step_is_given(source: Path) -> None:
    """A row of the trainer's data has them in one version of TRL and a mask in their place in another: Colab's."""
    for cell in code_cells(source):
        if "train_dataset" in cell and '["labels"]' in cell:
            assert not re.search(r"\b(row|example)\[\"labels\"\]", cell)
            assert "data_collator(" in cell


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_generator_is_made_in_the_cell_that_draws_from_it(source: Path) -> None:
    """Otherwise a second run of the cell goes on where the first one stopped, and gives other numbers."""
    for cell in code_cells(source):
        if re.search(r"\brng\b", cell):
            assert "random.Random(" in cell
        if "torch.randn(" in cell and "class " not in cell:
            assert "generator=" in cell or "manual_seed(" in cell


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_runs_are_timed_by_the_clock(source: Path) -> None:
    """Processor time counts threads that wait for each other in a loop: equal runs took 19 and 111 seconds of it."""
    for cell in code_cells(source):
        assert "process_time" not in cell


WORDS = {"nats": r"logarithm", "perplexity": r"as unsure as|\$e\$ to the power", "logits": r"scores"}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_word_of_the_trade_is_explained_where_it_is_used(word: str, source: Path) -> None:
    text = prose(source)
    if re.search(rf"\b{word}\b", text):
        assert re.search(WORDS[word], text), f"{source.name} uses {word} and does not say what it is"
