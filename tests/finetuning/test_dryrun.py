"""A dry run at 7B: real width, reduced depth; the weights are random but sane."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch

from course_utils.finetuning import dryrun, four_bit, qlora
from course_utils.memory import formulas, shapes
from course_utils.models.hardware import Hardware, multiplies_bfloat16
from course_utils.settings import ROOT

LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=8, ram_free_gb=4, cores=2)
# As wide as the real one, two layers deep, with a small vocabulary.
SHAPE = dataclasses.replace(shapes.architecture("mistral-7b"), layers=2, vocab=4000, parameters=None)
TINY = dataclasses.replace(SHAPE, hidden=256, heads=4, kv_heads=2, intermediate=512, vocab=1100, layers=2)

# In a process of its own, because this one has held other things before.
SCRIPT = """
import dataclasses, json, time
import torch
from course_utils.finetuning import dryrun
from course_utils.models import hardware, offline
from tests.finetuning.test_dryrun import SHAPE
offline.close_sockets()
ballast = torch.ones(2**27)  # half a GiB of somebody else's
began = time.process_time()
report = dryrun.run(hardware.detect(), SHAPE, steps=1, tokens=32, plain=True)
print(json.dumps(dataclasses.asdict(report) | {"cpu": time.process_time() - began}))
"""


def test_at_real_width_it_stays_small_and_fast():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["cpu"] < (12 if multiplies_bfloat16("cpu") else 80)  # in fp32: about 40
    assert report["before"] > 0.7  # the ballast, and the libraries
    assert 0.98 * report["simulated"] < report["peak"] - report["before"] < report["simulated"] + 0.6
    assert "random weights" in report["model"] and report["layers"] == 2
    assert len(report["tokens_per_second"]) == len(report["plain_tokens_per_second"]) == 1
    # It knows nothing: the loss is that of guessing among 4,000 tokens with scores of this variance.
    guessing = math.log(SHAPE.vocab) + dryrun.SPREAD**2 * SHAPE.hidden / 2
    assert all(abs(loss - guessing) < 1 for loss in report["losses"])


def test_drawn_weights_are_spread_as_normal_ones_are():
    chat = dryrun.build(TINY, torch.float32, "cpu")
    layer = chat.model.model.layers[0].mlp.up_proj
    drawn = four_bit.dequantised(layer).float()
    assert drawn.shape == (512, 256)
    assert drawn.std() == pytest.approx(dryrun.SPREAD, rel=0.1)
    assert abs(drawn.mean()) < 0.02 * drawn.std()
    kurtosis = (drawn**4).mean() / drawn.var() ** 2
    assert 2.7 < kurtosis < 4
    assert torch.linalg.matrix_norm(drawn, 2) < 1.3 * dryrun.SPREAD * (512**0.5 + 256**0.5)  # no common direction
    assert len(torch.unique(layer.weight.data)) > 100
    other = chat.model.model.layers[1].mlp.up_proj
    assert not torch.equal(layer.weight.data, other.weight.data)
    assert four_bit.stored_bits(layer) == pytest.approx(formulas.NF4_BITS, rel=0.01)


def test_the_same_seed_draws_the_same_model():
    first, again, other = (dryrun.build(TINY, torch.float32, "cpu", seed) for seed in (1, 1, 2))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        a, b, c = (chat.model(ids).logits for chat in (first, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.isfinite(a).all()


def test_positions_matter_in_the_built_model():
    """The rotary frequencies are no weights: they must be the architecture's own."""
    chat = dryrun.build(TINY, torch.float32, "cpu")
    frequencies = chat.model.model.rotary_emb.inv_freq
    assert frequencies[0] == 1 and (frequencies.diff() < 0).all()


def test_each_step_of_a_longer_run_has_its_loss_and_speed():
    report = dryrun.run(LAPTOP, TINY, steps=10, tokens=16)
    assert len(report.losses) == len(report.tokens_per_second) == 10


def test_what_does_not_fit_is_refused_before_anything_is_made():
    with pytest.raises(qlora.NotEnoughMemoryError, match="--layers 4"):
        dryrun.run(dataclasses.replace(LAPTOP, ram_free_gb=2), "mistral-7b", layers=8)


def test_the_report_says_that_the_weights_are_random():
    report = dryrun.Report("shape", "2 CPU cores", 2, 64, 1.0, [8.0], [10.0], 2.0, 1.5, [9.0], before=0.25)
    assert "RANDOM" in str(report) and "10.0 tokens/s" in str(report) and "plain PEFT" in str(report)


def test_the_report_compares_what_the_run_took_with_what_was_simulated():
    report = dryrun.Report("shape", "2 CPU cores", 2, 64, 1.0, [8.0], [10.0], 2.6, 0.41, before=2.1)
    assert "took 0.50 GiB; simulated, tensors only: 0.41 GiB" in str(report)
    assert "peak memory 2.60 GiB, 2.10 of them from before" in str(report)


def test_a_system_that_does_not_tell_the_peak_gets_no_number():
    report = dryrun.Report("shape", "2 CPU cores", 2, 64, 1.0, [8.0], [10.0], 0.0, 0.41)
    assert "does not tell" in str(report) and "0.41 GiB" in str(report) and "0.00" not in str(report)


def test_texts_are_longer_than_any_sequence_asked_for():
    from course_utils.prisma import lm

    tokenizer = lm.build_tokenizer()
    for tokens in (64, 2048):
        rows = dryrun.texts(3, tokens)
        assert len(rows) == 3
        assert all(len(tokenizer(row["completion"][0]["content"])["input_ids"]) > tokens for row in rows)
