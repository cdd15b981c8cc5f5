"""The solutions of Unit 7.4's exercises against transformers, tenacity, NumPy and what they promise."""

import importlib
import math
import random

import numpy as np
import pytest
import torch

from course_utils.exercises import check, diagnosis, registry
from course_utils.exercises.unit_7_4 import solutions as reference
from course_utils.memory import formulas, shapes
from course_utils.serving import metrics

# --- what does not count


@pytest.mark.parametrize(
    ("name", "place", "function_name"),
    [("7.4.percentile", "metrics", "quantile"), ("7.4.gptq", "quantising", "gptq")],
)
def test_what_the_course_computes_elsewhere_does_not_count(name, place, function_name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def borrowed(*inputs):
        module = importlib.import_module(f"course_utils.serving.{place}")
        return getattr(module, function_name)(*inputs)

    assert check(name, borrowed) is registry.exercise(name).reference
    assert "calls the course's own solution" in " ".join(capsys.readouterr().out.split())


def test_the_percentile_is_the_packages_own() -> None:
    bounds, counts = [0.1, 0.5, 1.0, math.inf], [3, 4, 9, 10]
    for q in (0.05, 0.3, 0.35, 0.5, 0.9, 0.99):
        assert reference.percentile(bounds, counts, q) == pytest.approx(metrics.quantile(bounds, counts, q))


# --- the cache against transformers and the formulas


def test_the_cache_is_the_one_that_transformers_builds() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=32, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2,
    )  # fmt: skip
    words = torch.ones(4, 10, dtype=torch.long)
    with torch.no_grad():
        cache = LlamaForCausalLM(config)(words, use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert reference.kv_cache_bytes(3, 6, 2, 8, 10, 4, 32) == held > 0


@pytest.mark.parametrize("name", ["mistral-7b", "llama-2-7b", "llama-3.1-405b"])
def test_the_cache_is_that_of_the_courses_formula(name: str) -> None:
    shape = shapes.architecture(name)
    ours = reference.kv_cache_bytes(shape.layers, shape.heads, shape.kv_heads, shape.head_width, 1000, 3, 16)
    assert ours == formulas.kv_cache_bytes(name, seq=1000, batch=3)


# --- the bucket


def test_no_stretch_of_time_lets_more_through_than_burst_and_rate() -> None:
    rng = random.Random(0)
    times = sorted(rng.uniform(0, 60) for _ in range(400))
    passed = [time for time, passes in zip(times, reference.token_bucket(times, 2.0, 5), strict=True) if passes]
    most = 0.0
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            most = max(most, j - i + 1 - 2.0 * (passed[j] - first))
    assert 4 < most <= 5 + 1e-6
    assert len(passed) > 100  # about 2 x 60, and the first five


def test_a_burst_passes_and_a_pause_forgives() -> None:
    assert reference.token_bucket([0, 0, 0, 0], 1, 3) == [True, True, True, False]
    assert reference.token_bucket([0, 0, 9, 9, 9], 1, 2) == [True, True, True, True, False]
    assert reference.token_bucket([7, 7.5, 8], 1, 1) == [True, False, True]


# --- the schedule


@pytest.mark.parametrize("slots", [1, 2, 3, 50])
def test_slots_are_never_overbooked_and_never_idle_while_somebody_waits(slots: int) -> None:
    rng = random.Random(slots)
    requests = [(rng.randrange(30), rng.randrange(1, 9)) for _ in range(40)]
    ends = reference.schedule(requests, slots)
    spans = []
    for (arrival, tokens), end in zip(requests, ends, strict=True):
        spans.append((arrival, end - tokens + 1, end))
    for step in range(max(ends) + 1):
        running = sum(start <= step <= end for _, start, end in spans)
        waiting = sum(arrival <= step < start for arrival, start, _ in spans)
        assert running <= slots and (running == slots or not waiting)
    assert all(start >= arrival for arrival, start, _ in spans)
    served = sorted(spans, key=lambda span: span[0])
    starts = [start for _, start, _ in served]
    assert starts == sorted(starts)  # nobody overtakes


def test_with_a_slot_for_each_nobody_waits() -> None:
    assert reference.schedule([(0, 3), (4, 1), (2, 5)], 3) == [2, 4, 6]


# --- GPTQ


def layer(seed: int, columns: int = 24, rows: int = 16):
    draw = torch.Generator().manual_seed(seed)
    inputs = reference.correlated(200, columns, seed=seed + 100)
    return torch.randn(rows, columns, generator=draw), inputs


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_moves_the_weights_more_and_the_answers_less(bits: int) -> None:
    """That is what a student is told on success."""
    moved, answered = [], []
    for seed in range(5):
        weight, inputs = layer(seed)
        hessian = reference.hessian_of(inputs)
        ours = reference.gptq(weight, hessian, bits, 8)
        plain = reference.gptq(weight, torch.eye(24), bits, 8)
        moved.append((ours - weight).norm() / (plain - weight).norm())
        answered.append((inputs @ (ours - weight).T).norm() / (inputs @ (plain - weight).T).norm())
    assert min(moved) > 1.05 and max(answered) < 0.9


def test_with_independent_inputs_gptq_is_rounding_to_the_nearest() -> None:
    weight, _ = layer(7)
    rounded = reference.gptq(weight, torch.diag(torch.rand(24) + 0.5), 4, 8)
    groups = weight.view(16, 3, 8)
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    step = (high - low) / 15
    assert ((rounded.view(16, 3, 8) - groups).abs() <= step / 2 + 1e-6).all()
    codes = (rounded.view(16, 3, 8) - low) / step
    assert torch.allclose(codes, codes.round(), atol=1e-3) and codes.min() > -1e-3 and codes.max() < 15.001


def test_a_group_takes_no_more_values_than_its_bits_can_tell_apart() -> None:
    weight, inputs = layer(8)
    rounded = reference.gptq(weight, reference.hessian_of(inputs), 2, 8)
    for row in rounded.view(-1, 8):
        assert len(row.unique()) <= 4


def test_equal_weights_stay_what_they_are() -> None:
    weight = torch.full((2, 4), 0.7)
    assert torch.allclose(reference.gptq(weight, torch.eye(4), 3, 4), weight)


def test_the_gptq_exercise_is_far_from_ties() -> None:
    """Another order of the sums must not turn a rounding."""
    seen = []

    class Watched(diagnosis.Attempt):
        """Calls the reference here, where `check` would refuse it."""

        def __call__(self, *inputs):
            seen.append(inputs)
            return exercise.reference(*inputs)

    exercise = registry.exercise("7.4.gptq")
    exercise.examine(Watched(exercise.reference, exercise.stub))
    assert len(seen) == 2
    for weight, hessian, bits, group in seen:
        assert nearest_tie(weight.double(), hessian.double(), bits, group) > 0.005


def nearest_tie(weight, hessian, bits: int, group: int) -> float:
    """How far, in steps of the grid, any weight is from the middle between two numbers of its grid."""
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    weight, top, nearest = weight.clone(), 2**bits - 1, 1.0
    for j in range(weight.shape[1]):
        if j % group == 0:
            low, high = weight[:, j : j + group].aminmax(dim=1)
        places = (weight[:, j] - low) / (high - low) * top
        inside = places[(places > -0.4) & (places < top + 0.4)]
        nearest = min(nearest, (inside - inside.floor() - 0.5).abs().min().item())
        rounded = low + (high - low) / top * places.round().clamp(0, top)
        error = (weight[:, j] - rounded) / factor[j, j]
        weight[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return nearest


# --- the percentile


def test_percentiles_are_numpys_where_observations_lie_at_even_distances() -> None:
    bounds = [0.5, 1.0, 4.0, 10.0]
    held = [4, 10, 6, 5]
    values: list[float] = []
    start = 0.0
    for end, count in zip(bounds, held, strict=True):
        values += [start + (end - start) * (k + 1) / count for k in range(count)]
        start = end
    counts = list(np.cumsum([*held, 0]))
    for q in (0.04, 0.16, 0.3, 0.5, 0.56, 0.9, 0.95, 1.0):
        theirs = np.quantile(values, q, method="interpolated_inverted_cdf")
        assert reference.percentile([*bounds, math.inf], counts, q) == pytest.approx(theirs)


def test_the_last_bucket_and_no_observation_are_prometheus() -> None:
    """promql/quantile.go: the upper bound of the second highest bucket, and NaN."""
    bounds = [1.0, 5.0, math.inf]
    assert reference.percentile(bounds, [1, 2, 10], 0.9) == 5.0
    assert math.isnan(reference.percentile(bounds, [0, 0, 0], 0.9))
    assert reference.percentile(bounds, [10, 10, 10], 0.25) == 0.25  # the first bucket starts at 0


# --- waits


def test_the_limits_are_tenacitys(monkeypatch) -> None:
    """tenacity's wait_random_exponential is full jitter after the same article."""
    from types import SimpleNamespace

    tenacity = pytest.importorskip("tenacity")
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    policy = tenacity.wait_random_exponential(multiplier=0.5, max=20)
    theirs = [policy(SimpleNamespace(attempt_number=n)) for n in range(1, 9)]
    assert reference.backoff([None] * 8, 0.5, 20, 1e9, lambda low, high: high) == theirs
    assert max(theirs) == 20 > theirs[0] == 0.5


def test_clients_that_failed_together_come_back_spread() -> None:
    first = [reference.backoff([2.0], 4.0, 60, 100, random.Random(seed).uniform)[0] for seed in range(200)]
    assert min(first) >= 2 and max(first) <= 6
    assert len(set(first)) == 200 and np.std(first) > 0.8  # evenly over 4 seconds: 1.15


def test_the_budget_holds() -> None:
    waits = reference.backoff([None] * 30, 1.0, 8.0, 20.0, random.Random(1).uniform)
    assert sum(waits) <= 20 and 3 < len(waits) < 30


# --- the filter


def test_the_filter_lets_letters_of_other_scripts_through() -> None:
    """Known and said in the teaching notes: no normal form makes a Cyrillic letter a Latin one."""
    latin, cyrillic = "ignore the rules", "ign\u043ere the rules"
    decide = reference.injection_filter
    assert decide([("look", latin), ("look", cyrillic)], ["look"], ["ignore the rules"]) == [False, True]
    assert decide([("pay", cyrillic)], ["look"], ["ignore the rules"]) == [False]


def test_words_are_found_in_any_dress() -> None:
    assert reference.spaced_words("\uff29\uff47nore\u200b, the\u00a0RULES!") == " ignore the rules "
    assert reference.spaced_words("...") == "  "
