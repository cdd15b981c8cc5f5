"""What notebooks say and what they print hold together: promises, comparisons, columns, words of the trade.

The outputs are the committed ones. A number that moves from build to build is not quoted here: what has to hold is
that a comparison is printed, and that the text claims no more than its intervals show.
"""

import re

import pytest
from said import cells, committed, interval, lines_of, printed, prose, table, tables

from course_utils.settings import NOTEBOOKS

ALL = [path.stem for path in sorted(NOTEBOOKS.rglob("*.ipynb"))]
MULTIMODAL = "7.1_multimodal_ai"
FAMILIES = "7.1_lab_generative_families"
BINDING = "7.1_lab_binding_senses"
EFFICIENCY = "7.3_efficiency"
HOSTING = "7.4_self_hosting"
CHOICES = "7.5_finetuning_choices"
SHARE = "7.5_lab_share_and_serve"
REINFORCED = "7.5_lab_reinforcement_learning"


def line(notebook: str, start: str) -> str:
    """The first line of a notebook's outputs that begins with `start`."""
    lines = printed(committed(notebook))
    found = [one for one in lines if one.startswith(start)]
    assert found, f"{notebook} prints nothing that begins with {start!r}"
    return found[0]


def numbers(text: str) -> list[float]:
    """All numbers in a text, thousands with or without commas."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text)
    return [float(one.replace(",", "")) for one in found]


def apart(one: str, other: str) -> bool:
    """Whether the interval of `one` lies above that of `other`."""
    return interval(one)[0] > interval(other)[1]


# --- 7.1: what is promised is printed


def test_the_heart_gets_most_of_the_attention_from_the_middle_layer_on() -> None:
    share_of_patches = numbers(line(MULTIMODAL, "the heart touches"))[-1]
    rows = [one for one in printed(committed(MULTIMODAL)) if re.match(r"layer \d+: \d+% of the attention", one)]
    on_heart = {int(numbers(one)[0]): numbers(one)[1] for one in rows}
    assert list(on_heart) == list(range(len(rows))) and len(rows) >= 3  # layers count from 0
    assert on_heart[0] < 1.5 * share_of_patches
    middle = len(rows) // 2
    assert all(on_heart[layer] > 2 * share_of_patches for layer in range(middle, len(rows)))
    assert "From the middle layer on, the patches look almost only at the heart" in prose(MULTIMODAL)


@pytest.mark.parametrize("changed", ["too many", "exchanged", "left out"])
def test_each_hallucination_that_is_asked_about_is_tested_and_told(changed: str) -> None:
    rows = {row["the true caption against"]: row["true one preferred"] for row in table(MULTIMODAL, "two toys")}
    right = interval(rows[f"a list with one toy {changed}"])
    told = interval(line(MULTIMODAL, f"one toy {changed}: fooled in"))
    assert told == pytest.approx((100 - right[1], 100 - right[0]), abs=0.11)
    assert told[1] < 50  # the text: seldom
    assert "seldom" in prose(MULTIMODAL)


def test_binding_is_called_a_coin_toss_where_its_interval_holds_one_half() -> None:
    told = line(MULTIMODAL, "binding: the true caption wins in")
    low, high = interval(told)
    assert ("not told from a coin toss" in told) == (low <= 50 <= high)


def test_both_comparisons_with_the_original_are_printed() -> None:
    ours, theirs = (numbers(line(MULTIMODAL, start)) for start in ("prisma-clip:", "CLIP ViT-L/14:"))
    more_pairs = numbers(line(MULTIMODAL, "the original saw"))[0]
    more_work = numbers(line(MULTIMODAL, "and its training took"))[0]
    assert more_pairs == pytest.approx(theirs[-2] / ours[-2], rel=0.01)
    assert more_work == pytest.approx(theirs[-1] / ours[-1], rel=0.03)
    assert "in pairs and in operations" in prose(MULTIMODAL)


def test_late_fusion_is_not_decided_where_intervals_overlap() -> None:
    both, good = line(MULTIMODAL, "both: "), line(MULTIMODAL, "10 dB alone:")
    assert apart(both, good) or apart(good, both) or "is *not* decided here" in prose(MULTIMODAL)
    last = numbers(line(MULTIMODAL, "right only with both:"))
    requests = last[1]
    assert last[0] + last[2] < 0.2 * requests  # "on how few requests the two differ"


@pytest.mark.parametrize("notebook", [MULTIMODAL, EFFICIENCY])
def test_an_interval_is_explained_where_it_is_first_used(notebook: str) -> None:
    """An objective of 7.1 is to say how well it works "with an interval"."""
    explained = False
    for cell in committed(notebook).cells:
        if cell.cell_type == "markdown":
            explained |= "in 95 of 100 experiments" in " ".join(cell.source.split())
        for output in cell.get("outputs", []):
            shown = "\n".join(lines_of(output))
            assert explained or not re.search(r", n = \d+\)|95 %", shown)
    assert explained


def test_the_noise_can_be_heard_and_misleads_the_model() -> None:
    """A sample that is transcribed perfectly, and cannot be played, teaches nothing about noise."""
    (cell,) = [cell for cell in committed(MULTIMODAL).cells if "heard at {level} dB" in cell.source]
    players, own = 0, []
    for output in cell.outputs:
        if output.output_type == "stream":
            own += output.text.splitlines()
        else:
            players += "<audio" in output.data["text/html"]
    said, *heard = [text.partition(": ")[2] for text in own]
    assert players == len(heard) == 3
    assert heard[-1] != said
    assert [numbers(text)[0] for text in own[1:]] == [20, 10, 0]


# --- 7.1's labs


SHAPES = ("cube", "ball", "cone", "cylinder", "pyramid", "ring", "star", "heart")


def test_the_strip_shows_two_of_each_shape_and_success_is_counted_for_each() -> None:
    asked = line(FAMILIES, "asked for, from left to right:").partition(": ")[2].split(", ")
    shown = [name.split()[1] for name in asked]
    assert {shape: shown.count(shape) for shape in SHAPES} == dict.fromkeys(SHAPES, 2)
    rows = table(FAMILIES, "pictures of each shape")
    assert [row["shape"] for row in rows] == list(SHAPES)
    easiest, hardest = sorted(rows, key=lambda row: numbers(row["w = 2"])[0])[:: len(rows) - 1][::-1]
    assert apart(easiest["w = 2"], hardest["w = 2"])  # "some shapes are far easier than others"


def test_noising_and_denoising_are_shown() -> None:
    assert "in twelve steps from clear to pure noise" in line(FAMILIES, "Two toys")
    assert line(FAMILIES, "From noise on the left to")


def test_models_that_were_told_and_models_that_were_not_are_ranked_apart() -> None:
    told = {row["family"]: row["told what to draw"] for row in table(FAMILIES, "one judge")}
    labelled = {family for family, answer in told.items() if answer == "yes"}
    assert labelled == {family for family in told if re.search(r"label, w = [1-9]", family)} and labelled
    assert "Compare a row with rows of its own kind only" in prose(FAMILIES)
    assert line(FAMILIES, "nearest of those not told") and line(FAMILIES, "nearest of those told")


def test_wrong_colours_help_the_shapes_and_the_text_says_so() -> None:
    rows = table(BINDING, "512 held-out sounds: mean")
    (right,) = [row for row in rows if row["captions"] == "none wrong"]
    wrong = [row for row in rows if row["captions"] in ("any colour", "always the next")]
    assert len(wrong) == 4 and "learned a little *better*" in prose(BINDING)
    assert all(interval(row["right shape (%)"])[0] > interval(right["right shape (%)"])[1] for row in wrong)
    assert all(interval(row["right colour (%)"])[1] < interval(right["right colour (%)"])[0] for row in wrong)


# --- 7.3


def test_levels_that_are_missing_and_not_bits_explain_the_loss() -> None:
    """One bit lies nearer to the matrix than three levels in 2 bits, and all four levels nearer than either."""
    said = [one for one in printed(committed(EFFICIENCY)) if "become 0, error" in one]
    names = [re.match(r"(.+?) +\d+% become 0", one)[1].strip() for one in said]
    errors = dict(zip(names, (numbers(one)[-1] for one in said), strict=True))
    assert errors["3 bits"] < errors["2 bits, asymmetric"] < errors["1 bit"] < errors["2 bits"]
    rows = {row["format"]: row for row in table(EFFICIENCY, "Matrices in groups of 64")}
    assert interval(rows["2 bits, asymmetric"]["sums right"])[0] > 0 == numbers(rows["2 bits"]["sums right"])[0]
    assert interval(rows["3 bits"]["copying, change in points"])[1] < 0
    assert "That is a fault of this 2-bit scale, not a merit of one bit" in prose(EFFICIENCY)


def test_the_fused_kernel_is_judged_by_factors_that_stand_above() -> None:
    rows = table(EFFICIENCY, "Causal attention, 2 heads")
    tokens, slow, fast = ([numbers(row[name])[0] for row in rows] for name in ("tokens", "by hand (ms)", "fused (ms)"))
    for row, by_hand, fused in zip(rows, slow, fast, strict=True):
        assert numbers(row["fused is faster by"])[0] == pytest.approx(by_hand / fused, rel=0.1)
        assert numbers(row["fused holds less by"])[0] > 1
    assert tokens == [256, 512, 1024, 2048, 4096]
    for before, after in zip(slow, slow[1:], strict=False):
        assert after < 15 * before  # four times the work; 40 times was a run that something had disturbed
    text = prose(EFFICIENCY)
    assert "little to win" not in text and "below 1 the fused kernel would be the *slower* one" in text


@pytest.mark.parametrize("notebook", ALL)
def test_no_cell_takes_a_number_apart_that_it_has_printed(notebook: str) -> None:
    """The interval of a measure is its `low` and `high`; `percent` writes both for a table."""
    for cell in cells(notebook, "code"):
        assert not re.search(r"\bstr\([^()]*(\([^()]*\))?[^()]*\)\.(split|partition|rpartition)\(", cell)


@pytest.mark.parametrize("notebook", ALL)
def test_no_text_calls_a_function_yours_that_is_the_courses(notebook: str) -> None:
    """Where nothing was checked, a cell runs the course's function: *your* `name` was wrong."""
    assert not re.search(r"\*your\* `\w+`", prose(notebook))


# --- 7.4 and 7.2


def digits_shown(column: list[str]) -> float:
    """The largest number of a column in units of its last digit; endless where nothing is shown as 0."""
    decimals = [re.fullmatch(r"-?[\d,]+\.(\d+)", text) for text in column]
    if not all(decimals):
        return float("inf")
    sizes = [abs(numbers(text)[0]) for text in column]
    largest = max(sizes)
    if min(sizes) > 0 or largest == 0:
        return float("inf")
    return round(largest * 10 ** len(decimals[0][1]))


@pytest.mark.parametrize("notebook", ALL)
def test_no_column_of_numbers_is_rounded_to_nothing(notebook: str) -> None:
    """Seconds per answer were printed as 0.0, 0.1 and 0.2."""
    for rows in tables(notebook):
        for name in rows[0]:
            assert digits_shown([row[name] for row in rows]) >= 10, name


def test_a_column_of_one_digit_is_noticed() -> None:
    assert digits_shown(["0.0", "0.1", "0.2"]) == 2 and digits_shown(["0.0", "1.2"]) == 12
    for column in (["0.0", "0.0"], ["0", "1"], ["0.1", "0.4"]):
        assert digits_shown(column) == float("inf")


ENGINES = ("transformers, one by one", "transformers, batching", "llama.cpp")


def test_the_wait_of_one_user_shows_two_digits_at_least() -> None:
    rows = table(HOSTING, "ms per answer")
    assert len(rows) == 12  # three servers, four numbers of users
    for name, least in (("ms per answer", 10), ("ms to first token", 1)):  # in tenths
        assert min(numbers(row[name])[0] for row in rows) >= least, name


def test_servers_of_the_same_model_give_the_same_answers() -> None:
    said = [one for one in printed(committed(HOSTING)) if one.endswith("word for word as transformers, one by one")]
    assert len(said) == 3
    for one in said:
        same, asked = numbers(one)[:2]
        assert same == asked == 16, one


def test_a_running_servers_memory_grows_as_the_formula_says() -> None:
    measured = numbers(line(HOSTING, "fifteen more conversations"))[-1]
    predicted = numbers(line(HOSTING, "the formula for their keys"))[-1]
    assert 0.85 * predicted < measured < 1.25 * predicted


def test_fewer_bits_make_smaller_files_and_other_words() -> None:
    rows = table(HOSTING, "word for word as f16")
    sizes = [numbers(row["MB"])[0] for row in rows]
    assert sizes == sorted(sizes, reverse=True) and len(rows) == 4
    assert numbers(rows[0]["word for word as f16"]) == [20, 20]
    same = [numbers(row["word for word as f16"])[0] for row in rows]
    assert same == sorted(same, reverse=True) and same[-1] < same[0] - 3


def test_together_is_faster_than_one_by_one_and_llama_cpp_faster_still() -> None:
    rows = {(row["server"], row["users"]): row for row in table(HOSTING, "ms per answer")}
    alone, batched, compiled = (rows[name, "16"] for name in ENGINES)
    assert numbers(batched["lowest tokens/s"])[0] > numbers(alone["highest"])[0]
    assert numbers(compiled["lowest tokens/s"])[0] > numbers(batched["highest"])[0]
    assert numbers(alone["ms to first token"])[0] > numbers(batched["ms to first token"])[0]


def test_who_shares_keys_with_whom_is_said() -> None:
    assert "Mistral 7B keeps only eight sets, and four heads share each" in prose(HOSTING)


def test_the_table_of_engines_says_that_it_asks_for_the_likeliest_answer() -> None:
    text = prose(HOSTING)
    assert "It asks with `temperature=0`" in text and "cloud models" in text
    (row,) = [row for row in table(HOSTING, ">note</th>") if row["note"] == "started here"]
    assert row["answer"] == line(HOSTING, "answered:").partition(": ")[2]  # as the same question got before


def test_a_column_is_called_by_its_name() -> None:
    """In 7.2 "the second column" was the third; in 7.1 "both rows" were columns."""
    assert "then both columns of the table are equally new to it" in prose(MULTIMODAL)
    assert not re.search(r"(first|second|third) column", prose("7.2_agentic_ai"))
    assert "The column of right calls" in prose("7.2_agentic_ai")
    assert "the right calls (%)" in table("7.2_agentic_ai", "The first call to each")[0]


# --- 7.5


def test_no_method_of_the_comparison_scores_nothing() -> None:
    rows = {row["method"]: row["parts right"] for row in table(CHOICES, "sign-off")}
    assert rows.keys() == {"full", "lora", "qlora"}
    assert all(interval(row)[0] > 20 for row in rows.values())


def test_what_the_text_ranks_lies_apart() -> None:
    """Full fine-tuning gets furthest, and four bits cost a little: as differences on the same replies."""
    for one in ("lora minus full", "qlora minus full", "qlora minus lora"):
        assert interval(line(CHOICES, one))[0] > 0, one
    assert "it gets furthest in the same steps" in prose(CHOICES)


def test_rungs_that_all_score_nothing_are_told_apart_by_their_loss() -> None:
    rows = {row["rung"]: row for row in table(CHOICES, "change from nothing")}
    changes = [interval(rows[rung]["change from nothing"]) for rung in ("prompt", "few-shot", "retrieval")]
    assert sum(high < 0 or low > 0 for low, high in changes) >= 2
    assert "every rung scores 0" in prose(CHOICES)
    for method in ("full", "lora", "qlora"):
        trained = line(CHOICES, f"{method}: loss on the first")
        assert all(apart(row["loss on the wanted reply"], trained) for row in rows.values())


def test_the_sweep_is_longer_than_its_warm_up_and_wider_than_luck() -> None:
    (prepared,) = [cell for cell in cells(CHOICES, "code") if "def prepared(" in cell]
    assert "warmup_steps = 1 " in prepared and "after 20 steps" in " ".join(cells(CHOICES, "code"))
    luck = numbers(line(CHOICES, "rank 16 at 0.005 with three seeds:").partition("seeds:")[2])
    losses = numbers(line(CHOICES, "Validation loss for each rate and rank").partition(": ")[2])
    assert len(losses) == 6 and max(losses) - min(losses) > 5 * (max(luck) - min(luck))


def test_the_dry_run_compares_like_with_like() -> None:
    """Its own memory, without what the notebook held before, is near the simulated one."""
    measured, simulated = numbers(line(CHOICES, "so the run itself took"))
    assert simulated < measured < 2 * simulated
    assert len(numbers(line(CHOICES, "peak memory"))) == 2
    assert "The peak of the whole process does not compare with a simulation" in prose(CHOICES)


def test_what_lora_leaves_out_is_counted_and_timed() -> None:
    assert 15 < numbers(line(CHOICES, "LoRA leaves out"))[0] <= 34
    (wide,) = [row for row in table(CHOICES, "A step, 256 tokens") if row["width"] == "1,024"]
    assert numbers(wide["lora (ms)"])[0] < numbers(wide["full (ms)"])[0]
    assert "So nearly a third of the arithmetic goes" in prose(CHOICES)


def test_what_the_model_reads_ends_in_its_own_mark() -> None:
    lines = printed(committed("7.5_finetuning"))
    start = lines.index("--- what the model reads, after its chat template")
    read = " ".join(lines[start + 1 : start + 12])
    assert "<|end|>" in read and "<end>" not in read
    assert "<end>" not in prose("7.5_finetuning")


def test_weights_are_not_ranked_where_their_intervals_overlap() -> None:
    rows = [row["right"] for row in table(SHARE, "error / change")]
    highest = max(rows, key=lambda row: numbers(row)[0])
    lowest = min(rows, key=lambda row: numbers(row)[0])
    text = prose(SHARE)
    assert "in 4 bits stand last" not in text
    assert apart(highest, lowest) or "*right* cannot rank them" in text


def test_the_sharper_column_tells_16_bits_from_4() -> None:
    rows = {row["weights"]: row["answers as in 16 bits with the adapter"] for row in table(SHARE, "error / change")}
    fine = [rows["16 bits, fp16"], rows["16 bits, bf16"]]
    coarse = [row for name, row in rows.items() if "NF4" in name]
    assert len(coarse) == 3
    for one in fine:
        assert all(apart(one, other) for other in coarse)


def test_a_reward_that_is_said_to_rise_rises() -> None:
    start = line(REINFORCED, "learned reward: from")
    lines = printed(committed(REINFORCED))
    changes = [one for one in lines if one.startswith("change on the same customers")]
    learned, meant = map(interval, changes)
    assert learned[0] > 0 and numbers(start)[1] > numbers(start)[0]
    assert meant[1] < 0  # worse at what was meant: only then is it a hack
    assert "Where the first change lies above 0 and the second below" in prose(REINFORCED)


def test_times_of_equal_runs_are_the_shortest_of_three_and_explained() -> None:
    seconds = [one for one in printed(committed(REINFORCED)) if one.endswith("the shortest of three runs")]
    assert len(seconds) == 3
    assert "another program has had the machine" in prose(REINFORCED)
    assert "seconds" not in table(REINFORCED, "three seeds each")[0]


# --- all


WORDS = {
    "nats?": r"logarithm|probability of 1 in",
    "perplexity": r"as unsure as|\$e\^L\$",
    "logits?": r"softmax|scores",
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("notebook", ALL)
def test_a_word_of_the_trade_is_explained_no_later_than_it_is_used(notebook: str, word: str) -> None:
    known = ""
    for text in cells(notebook, "markdown"):
        known += " " + " ".join(text.split())
        uses = re.sub(r"^.*?\*\*Time:\*\*", "", known)  # the objectives at the top may name what is to come
        if re.search(rf"\b{word}\b", uses):
            assert re.search(WORDS[word], known), f"{notebook} uses {word} before it says what it is"


@pytest.mark.parametrize("notebook", ALL)
def test_layers_count_from_0(notebook: str) -> None:
    for cell in cells(notebook, "code"):
        assert not re.search(r"[Ll]ayer \{\w+ \+ 1\}", cell)
