"""One run, cut in every way: same gradients, same losses, the memory that the formula says, nothing left running."""

import inspect
import re

import pytest
import torch
from lessons import text_of
from torch import nn

from course_utils import ranks
from course_utils.finetuning import scale_out
from course_utils.models import bundled, hardware
from course_utils.prisma import lm


@pytest.fixture(scope="module")
def loaded():
    return lm.load(bundled.folder("prisma-lm"))


@pytest.fixture(scope="module")
def batch(loaded):
    made = scale_out.rows(loaded[1], 4)
    return made[:3] + [(made[3][0][:-20], made[3][1][:-20])]  # one shorter than the others


class Tiny(nn.Module):
    """Scores from each token alone: enough for gradients, and quick."""

    def __init__(self, vocabulary):
        super().__init__()
        torch.manual_seed(7)
        self.table = nn.Embedding(vocabulary, 8)
        self.out = nn.Linear(8, vocabulary)

    def forward(self, input_ids, attention_mask):
        scores = self.out(self.table(input_ids))
        return type("Output", (), {"logits": scores})


def gradient(batch, parts, tokens, pad):
    model = Tiny(4000)
    share = scale_out.backward(model, [scale_out.padded(part, pad) for part in parts], tokens)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), float(share)


def test_the_loss_counts_on_the_reply_only(loaded):
    _, tokenizer = loaded
    ids, labels = scale_out.rows(tokenizer, 1)[0]
    first = next(i for i, label in enumerate(labels) if label != -100)
    assert tokenizer.decode(ids[:first]).endswith("<|assistant|>")
    assert labels[first:] == ids[first:] and ids[-1] == tokenizer.eos_token_id
    assert scale_out.learned([(ids, labels)]) == len(ids) - first


def test_a_sum_over_tokens_may_be_cut_and_a_mean_may_not(loaded, batch):
    pad, tokens = loaded[1].pad_token_id, scale_out.learned(batch)
    whole, loss = gradient(batch, [batch], tokens, pad)
    for parts in ([batch[:2], batch[2:]], [[row] for row in batch]):
        cut, same = gradient(batch, parts, tokens, pad)
        assert (cut - whole).norm() < 1e-5 * whole.norm() and same == pytest.approx(loss, rel=1e-5)
    halves = [gradient(batch, [part], 2 * scale_out.learned(part), pad)[0] for part in (batch[:2], batch[2:])]
    assert (sum(halves) - whole).norm() > 1e-3 * whole.norm()


def test_padding_changes_nothing(loaded, batch):
    model, tokenizer = loaded
    pad = tokenizer.pad_token_id
    with torch.no_grad():
        together = scale_out.loss_sum(model, scale_out.padded(batch, pad))
        apart = sum(scale_out.loss_sum(model, scale_out.padded([row], pad)) for row in batch)
    assert together == pytest.approx(float(apart), rel=1e-4)


def test_the_notebook_shows_what_the_package_runs():
    text = text_of("7.5_lab_scale_out")
    assert inspect.getsource(scale_out.backward) in text


def test_two_processes_train_what_one_trains_and_fsdp_holds_half():
    alone = scale_out.train("single", 2, 2)
    reports = scale_out.launch(["ddp", "accelerate", "fsdp"], processes=2, steps=2, batch=2)
    assert [(r.mode, r.rank) for r in reports] == [(m, r) for m in ("ddp", "accelerate", "fsdp") for r in (0, 1)]
    parameters = alone.parameters / 4
    for report in reports:
        assert report.losses == pytest.approx(alone.losses, rel=1e-4)
        assert report.fingerprint == pytest.approx(alone.fingerprint, rel=1e-6)
        expected = scale_out.expected_bytes(parameters, 2, report.mode == "fsdp")
        assert report.bytes == pytest.approx(expected, rel=0.01)
    assert alone.losses[0] != alone.losses[1]


def test_a_failing_process_is_reported_and_the_others_stopped():
    with pytest.raises(ranks.RanksError, match="(?s)Process 1 of 2 failed.*ValueError"):
        scale_out.launch(["single"], processes=2, steps=1, batch=1)


def test_time_over_stops_all(monkeypatch):
    monkeypatch.setattr(scale_out, "TIMEOUT", 0.0)
    with pytest.raises(ranks.RanksError, match="not ready in time"):
        scale_out.launch(["ddp"], processes=1, steps=1, batch=1)


def test_an_unknown_mode_is_named():
    with pytest.raises(ranks.RanksError, match="(?s)invalid choice: 'tpu'.*ddp"):
        scale_out.launch(["tpu"], processes=1, steps=1, batch=1)


def test_loopback_is_found():
    assert re.fullmatch(r"[\w .-]+", hardware.loopback())
