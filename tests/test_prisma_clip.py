"""prisma-clip: its tokenizer, its loss, training that resumes, the folder it ships in, and what it knows."""

import random
import shutil

import numpy as np
import open_clip
import pytest
import torch

from course_utils.prisma import clip, pictures, speech
from course_utils.prisma.clip import Optimiser
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES
from course_utils.prisma.training import Checkpoint, Deadline, Measure, learning_rate, share, wilson

SHIPPED = (clip.FOLDER / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An untrained model, saved and loaded again."""
    folder = clip.save(clip.build(), tmp_path_factory.mktemp("saved") / "prisma clip")
    return folder, clip.load(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return clip.tokenizer_of()


@pytest.fixture
def small(monkeypatch):
    """Batches of eight drawn in this process: fast enough for a test."""
    monkeypatch.setenv("COURSE_QUIET", "1")

    def batches(seed, step):
        while True:
            yield clip.draw_training_batch(seed, step, 8)
            step += 1

    monkeypatch.setattr(clip, "_batches", batches)


# --- words ----------------------------------------------------------------------------------------------


def test_every_caption_and_request_is_known_to_the_tokenizer_and_fits(tokenizer):
    rng = random.Random(0)
    scenes = [pictures.random_scene(rng) for _ in range(1500)]
    texts = [one.text for scene in scenes for one in pictures.captions(scene, rng)]
    ids = tokenizer(texts + [speech.request(rng) for _ in range(500)])
    assert ids.shape[1] == 32
    assert not (ids == clip.vocabulary().index("[unk]")).any()
    assert (ids.max(1).values == len(clip.vocabulary()) - 1).all()  # no caption is cut off


def test_unknown_words_case_and_punctuation_do_no_harm(tokenizer):
    plain, dressed = tokenizer(["a red cube", "A RED, cube!"])
    assert (plain == dressed).all()
    unknown = clip.vocabulary().index("[unk]")
    assert (tokenizer("a zygote")[0] == unknown).sum() == 1


# --- batches and loss -----------------------------------------------------------------------------------


def test_training_batches_repeat_and_never_show_or_name_a_held_out_pair():
    texts = []
    for step in range(8):
        images, kinds, _ = clip.draw_training_batch(1, step, 64)
        texts += [text for kind in kinds for text in kind]
    words = " | ".join(texts)  # two captions side by side name nothing together
    for colour, shape in HELD_OUT:
        assert f"{colour} {shape}" not in words and f"{shape} that is {colour}" not in words
    again, _, _ = clip.draw_training_batch(1, 7, 64)
    assert (images == again).all() and len(texts) == 8 * 64 * 2


def test_a_caption_that_is_true_of_two_pictures_is_no_wrong_answer():
    _, kinds, masks = clip.draw_training_batch(0, 0, 96)
    short = [i for i, text in enumerate(kinds[1]) if text in ("something red", "red", "a toy that is red")]
    red = [i for i, text in enumerate(kinds[0]) if " red " in f" {text} "]
    assert not any(mask.diagonal().any() for mask in masks)
    for column in short:
        assert all(masks[1][row, column] for row in red if row != column)
    assert masks[0].mean() < 0.05 < masks[1].mean() < 0.3


def test_the_masked_loss_without_a_mask_is_open_clips():
    image, text = (torch.nn.functional.normalize(torch.randn(6, 16), dim=-1) for _ in range(2))
    ours = clip.MaskedClipLoss()
    ours.mask = torch.zeros(6, 6, dtype=torch.bool)
    expected = open_clip.ClipLoss()(image, text, torch.tensor(10.0))
    assert torch.allclose(ours(image, text, torch.tensor(10.0)), expected)
    ours.mask[0, 3] = True
    assert ours(image, text, torch.tensor(10.0)) < expected


def test_short_captions_are_encoded_as_open_clip_encodes_them(fresh):
    model, _, tokenizer = fresh[1]
    tokens = tokenizer(["a red cube", "please show me a blue ball above a green ring"])
    cut = tokens[:, : int((tokens != 0).sum(1).max())]
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
        assert torch.allclose(clip._encode_short(model, cut), expected, atol=1e-5)


def test_training_sees_pictures_as_the_shipped_preprocessing_does(fresh):
    _, preprocess, _ = fresh[1]
    image = pictures.draw(pictures.scene_of(("red", "cube")), seed=1)
    ours = clip._normalise(np.array(image)[None], "cpu")[0]
    assert torch.allclose(ours, preprocess(image), atol=1e-5)


# --- saving and training --------------------------------------------------------------------------------


def test_saved_and_loaded_models_agree_to_half_precision(fresh):
    folder, loaded = fresh
    model = clip.build().eval()
    images = [pictures.draw(pictures.scene_of((c, "star")), seed=i) for i, c in enumerate(COLOURS)]
    saved = clip.embed_images(loaded, images)
    original = clip.embed_images((model, *loaded[1:]), images)
    assert saved.shape == (8, 128) and torch.allclose(saved, original, atol=5e-3)
    assert (folder / "model.safetensors").stat().st_size < 5e6
    assert next(loaded[0].parameters()).dtype == torch.float32


def test_open_clip_itself_opens_the_folder_with_the_right_preprocessing(fresh):
    folder, _ = fresh
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert model.visual.image_size == (64, 64)
    assert preprocess(pictures.draw(pictures.scene_of(("red", "cube")), 96)).shape == (3, 64, 64)


def test_a_missing_file_is_named_with_its_cure(tmp_path, fresh):
    with pytest.raises(FileNotFoundError, match="course train prisma-clip"):
        clip.load(tmp_path)
    shutil.copytree(fresh[0], tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        clip.load(tmp_path / "broken")


def test_a_few_steps_lower_the_loss_on_the_batch(tokenizer):
    model, batch = clip.build(), clip.draw_training_batch(0, 0, 16)
    optimiser, losses = Optimiser(model), []
    for _ in range(8):
        torch.manual_seed(0)
        loss = clip.step_loss(model, tokenizer, batch)
        loss.backward()
        optimiser.step(1e-3)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_killed_run_goes_on_where_it_stood(small, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "learning_rate", lambda part, peak: 1e-3)  # the clock must not matter here

    def run(model, optimiser, point, state, most):
        def keep(numbers):
            point.save(model, optimiser, **numbers)

        return clip.train_steps(model, optimiser, Deadline(60), state, keep, most)

    def fresh_run():
        model = clip.build()
        return model, Optimiser(model), {"step": 0, "spent": 0.0, "seed": 3}

    whole, optimiser, state = fresh_run()
    run(whole, optimiser, Checkpoint(tmp_path / "whole"), state, 4)
    model, optimiser, state = fresh_run()
    run(model, optimiser, Checkpoint(tmp_path / "cut"), state, 2)
    model, optimiser, state = fresh_run()
    state.update(Checkpoint(tmp_path / "cut").load(model, optimiser))
    assert state["step"] == 2
    state = run(model, optimiser, Checkpoint(tmp_path / "cut"), state, 4)
    assert state["step"] == 4
    for name, weight in whole.state_dict().items():
        assert torch.allclose(weight, model.state_dict()[name], atol=1e-5), name


def test_a_checkpoint_of_something_else_is_refused_with_a_cure(tmp_path):
    point, other = Checkpoint(tmp_path), torch.nn.Linear(2, 2)
    assert point.load(other, None) == {}
    point.save(other, torch.optim.SGD(other.parameters(), 0.1), step=1)
    with pytest.raises(ValueError, match="train afresh"):
        point.load(clip.build(), None)


def test_training_offers_only_what_is_better(small, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COURSE_QUIET")
    point, out = Checkpoint(tmp_path / "run"), tmp_path / "out"
    monkeypatch.setattr(clip, "checkpoint", lambda name: point)
    quality = iter([0.5, 0.9, 0.5])  # fresh; then fresh against the one that is there

    def measured(loaded):
        clip.load(loaded)
        value = next(quality)
        return dict.fromkeys(clip.BARS, Measure(value, value, value, 1, "%"))

    monkeypatch.setattr(clip, "evaluate", measured)
    clip.train(0.001, out=out)
    first = (out / "model.safetensors").read_bytes()
    assert "Better than the shipped model" in capsys.readouterr().out
    quality = iter([0.2, 0.5])
    clip.train(0.001, out=out, seed=8)
    assert "Not better than the shipped model" in capsys.readouterr().out
    assert (out / "model.safetensors").read_bytes() == first
    assert not list(out.glob("*.part"))


# --- what all recipes share -----------------------------------------------------------------------------


def test_wilson_matches_published_values_and_refuses_nonsense():
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert low == pytest.approx(0.2553, abs=1e-4) and high == pytest.approx(0.3662, abs=1e-4)
    assert wilson(0, 20)[0] == pytest.approx(0) and wilson(20, 20)[1] == pytest.approx(1)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)
    assert str(share([True, True, False, True])).startswith("75.0% (")


def test_the_learning_rate_warms_up_and_fades():
    rates = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0, abs=0.01) and rates[-1] == pytest.approx(0.02)
    with pytest.raises(ValueError, match="minutes"):
        Deadline(0)


# --- the shipped weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    if not SHIPPED:
        pytest.fail("data/models/prisma-clip has no weights")
    return clip.load()


def test_the_shipped_model_knows_pairs_that_it_never_saw(shipped):
    seen = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT]
    assert clip.zero_shot(shipped, HELD_OUT, 120, seed=91).value > 0.6
    assert clip.zero_shot(shipped, seen, 120, seed=92).value > 0.75


def test_the_shipped_model_finds_the_right_scene_among_200(shipped):
    to_text, to_image = clip.retrieval(shipped, 200, seed=93)
    assert to_text.value > 0.6 and to_image.value > 0.6


def test_evaluation_repeats_with_its_seed_and_carries_intervals(shipped):
    first, again = clip.evaluate(shipped, seed=5, n=40), clip.evaluate(shipped, seed=5, n=40)
    assert first == again and set(clip.BARS) < set(first)
    assert all(m.low <= m.value <= m.high and m.n == 40 for m in first.values())
