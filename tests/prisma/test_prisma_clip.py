"""prisma-clip: its tokenizer, its loss, training that resumes, the folder it ships in, and what it knows."""

import random
import shutil

import numpy as np
import open_clip
import pytest
import torch

from course_utils.prisma import clip, pictures, speech
from course_utils.prisma.shop import COLOURS, HELD_OUT, TRAINED_PAIRS
from course_utils.training import Checkpoint, Deadline, MuonAdamW, run
from course_utils.workshop.evaluate import BARS

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

    monkeypatch.setattr(clip, "training_batches", batches)


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


def test_toys_in_colours_without_a_name_are_named_by_shape_alone():
    rng = random.Random(4)
    scenes = [pictures.unnamed_scene(rng) for _ in range(300)]
    texts = [one.text for scene in scenes for one in pictures.captions(scene, rng)]
    assert not {word for text in texts for word in text.split()} & set(COLOURS)
    assert any("toy" not in text for text in texts) and all(pictures.facts(scene) for scene in scenes)
    paints = np.stack([pictures.unnamed(np.random.default_rng(i)) for i in range(300)])
    named = np.stack([pictures.draw_paint(c, np.random.default_rng(i)) for c in COLOURS for i in range(40)])
    assert np.abs(paints[:, None] - named[None]).sum(-1).min() > 0.1  # no paint is a named one


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
        assert torch.allclose(clip.encode_short(model, cut), expected, atol=1e-5)


def test_training_sees_pictures_as_the_shipped_preprocessing_does(fresh):
    _, preprocess, _ = fresh[1]
    image = pictures.draw(pictures.scene_of(("red", "cube")), seed=1)
    ours = clip.normalise(np.array(image)[None], "cpu")[0]
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
    optimiser, losses = MuonAdamW(model, clip.PEAK, clip.is_inner), []
    for _ in range(8):
        torch.manual_seed(0)
        loss = clip.step_loss(model, tokenizer, batch)
        loss.backward()
        optimiser.step(1e-3)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_killed_run_goes_on_where_it_stood(small, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "learning_rate", lambda part, peak: 1e-3)  # the clock must not matter here

    def steps(folder, most, resume=False):
        model, point, state = clip.build(), Checkpoint(tmp_path / folder), {"step": 0, "spent": 0.0}
        optimiser = MuonAdamW(model, clip.PEAK, clip.is_inner)
        if resume:
            state.update(point.load(model, optimiser))
        learn = clip.learner(model, optimiser, seed=3)
        batches, keep = clip.training_batches(3, state["step"]), lambda numbers: point.save(model, optimiser, **numbers)
        assert run(clip.NAME, batches, learn, Deadline(60), state, keep, most)["step"] == most
        return model

    whole = steps("whole", 4)
    steps("cut", 2)
    model = steps("cut", 4, resume=True)
    for name, weight in whole.state_dict().items():
        assert torch.allclose(weight, model.state_dict()[name], atol=1e-5), name


def test_training_leaves_a_folder_that_loads(small, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "checkpoint", lambda name: Checkpoint(tmp_path / "run"))
    model, _, _ = clip.load(clip.train(0.001))
    assert isinstance(model.visual.patch_dropout, torch.nn.Identity)


# --- the shipped weights --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    if not SHIPPED:
        pytest.fail("data/models/prisma-clip has no weights")
    return clip.load()


def test_the_shipped_model_knows_pairs_that_it_never_saw(shipped):
    assert clip.zero_shot(shipped, HELD_OUT, 120, seed=91).value > 0.6
    assert clip.zero_shot(shipped, TRAINED_PAIRS, 120, seed=92).value > 0.75


def test_the_shipped_model_finds_the_right_scene_among_200(shipped):
    to_text, to_image = clip.retrieval(shipped, 200, seed=93)
    assert to_text.value > 0.6 and to_image.value > 0.6


def test_evaluation_repeats_with_its_seed_and_carries_intervals(shipped):
    first, again = clip.evaluate(shipped, seed=5, n=40), clip.evaluate(shipped, seed=5, n=40)
    assert first == again and set(BARS[clip.NAME]) - {"time to load"} < set(first)
    assert all(m.low <= m.value <= m.high and m.n == 40 for m in first.values())
