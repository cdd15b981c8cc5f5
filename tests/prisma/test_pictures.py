"""Pictures and captions: from seeds, true to their scenes, and clear enough to tell apart."""

import random

import numpy as np
import pytest
from PIL import Image

from course_utils.prisma import pictures
from course_utils.prisma.pictures import Scene, Toy, scene_of
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES
from course_utils.settings import DATA


def scenes(n: int, seed: int = 0, **options) -> list[Scene]:
    rng = random.Random(seed)
    return [pictures.random_scene(rng, **options) for _ in range(n)]


def test_the_same_seed_draws_the_same_pictures():
    some = scenes(12)
    first, again, other = (pictures.draw_batch(some, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (12, 64, 64, 3) and first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).mean() > 0.5


def test_another_size_shows_the_same_view():
    scene = scene_of(("red", "cube"), ("blue", "ring"), relation="left of")
    small, large = pictures.draw(scene, 64, seed=5), pictures.draw(scene, 192, seed=5)
    assert large.size == (192, 192)
    shrunk = np.asarray(large.resize((64, 64)), float)
    assert np.corrcoef(np.asarray(small, float).ravel(), shrunk.ravel())[0, 1] > 0.9


def test_no_excluded_pair_is_ever_drawn():
    drawn = {toy.pair for scene in scenes(3000, exclude=HELD_OUT) for toy in scene.toys}
    assert drawn.isdisjoint(HELD_OUT)
    assert len(drawn) == len(COLOURS) * len(SHAPES) - len(HELD_OUT)


def test_toys_of_a_scene_differ_and_scenes_can_be_distinct():
    assert all(len({toy.pair for toy in scene.toys}) == len(scene.toys) for scene in scenes(500))
    keys = [scene.key for scene in pictures.distinct_scenes(random.Random(1), 400)]
    assert len(set(keys)) == 400


@pytest.mark.parametrize(("relation", "axis"), [("left of", 0), ("above", 1)])
@pytest.mark.parametrize("toys", [2, 3])
def test_toys_stand_as_the_relation_says(relation, axis, toys):
    rng = np.random.default_rng(3)
    scene = scene_of(*[(c, s) for c, s in zip(COLOURS, SHAPES, strict=True)][:toys], relation=relation)
    for _ in range(100):
        centres, radii = pictures.layout(scene, rng)
        steps = np.diff(centres, axis=0)
        assert (steps[:, axis] > 0).all() and (np.abs(steps[:, axis]) > np.abs(steps[:, 1 - axis])).all()
        assert (centres > radii[:, None] - 1e-6).all() and (centres < 1 - radii[:, None] + 1e-6).all()


def test_the_toy_in_front_hides_a_part_of_the_other():
    front, behind = ("red", "cube"), ("blue", "cube")
    rng = np.random.default_rng(0)
    batch = pictures.draw_batch([scene_of(front, behind, relation="in front of")] * 40, rng).astype(int)
    red, blue = batch[..., 0] > batch[..., 2] + 60, batch[..., 2] > batch[..., 0] + 60
    assert np.median(red.sum((1, 2)) / (blue.sum((1, 2)) + 1)) > 1.1


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow"])
def test_a_toy_has_its_colour(colour):
    rng = np.random.default_rng(4)
    batch = pictures.draw_batch([Scene((Toy("large", colour, "ball"),))] * 30, rng).reshape(30, -1, 3) / 255
    spread = batch.max(2) - batch.min(2)
    strongest = np.array([row[pick] for row, pick in zip(batch, spread.argmax(1), strict=True)]).mean(0)
    bright = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}[colour]
    dull = [i for i in range(3) if i not in bright]
    assert strongest[list(bright)].min() > strongest[dull].max() + 0.25


def test_solids_are_told_apart_by_their_outlines():
    def outline(shape: str, seed: int) -> np.ndarray:
        rng, n = np.random.default_rng(seed), 64
        still = np.zeros((n, 2), np.float32)
        light = np.tile(np.array([0, 0, 1], np.float32), (n, 1))
        (cover, _, _), _ = pictures.stamp(shape, np.full(n, 15, np.float32), still, light, rng)
        return cover.mean(0)

    means = {shape: outline(shape, 1) for shape in SHAPES}
    for shape in SHAPES:
        other = outline(shape, 2)
        gaps = {name: np.abs(other - mean).mean() for name, mean in means.items()}
        assert min(gaps, key=gaps.get) == shape
    assert means["ring"][16, 16] < 0.2 < 0.9 < means["ball"][16, 16]


def test_captions_are_true_of_their_scene_and_name_everything():
    rng = random.Random(2)
    for scene in scenes(800):
        complete, partial = pictures.captions(scene, rng)
        assert complete.facts <= pictures.facts(scene) and partial.facts <= pictures.facts(scene)
        assert all(toy.colour in complete.text and toy.shape in complete.text for toy in scene.toys)


def test_many_captions_for_one_scene():
    scene, rng = scene_of(("red", "cube"), ("blue", "ball"), relation="left of"), random.Random(0)
    assert len({pictures.caption(scene, rng) for _ in range(300)}) > 150


def test_a_relation_can_be_said_from_either_side():
    there = scene_of(("red", "cube"), ("blue", "ball"), relation="left of")
    back = scene_of(("blue", "ball"), ("red", "cube"), relation="right of")
    assert there == back
    turned = scene_of(("blue", "ball"), ("red", "cube"), relation="left of")
    assert pictures.facts(there) != pictures.facts(turned)


def test_exchanging_colours_changes_what_is_true_and_nothing_else():
    scene = scene_of(("red", "cube"), ("blue", "ball"), relation="above")
    swapped = pictures.swap_colours(scene)
    assert [toy.name for toy in swapped.toys] == ["blue cube", "red ball"]
    true, false = (pictures.caption(one, random.Random(8)) for one in (scene, swapped))
    assert true != false and sorted(true.split()) == sorted(false.split())


def test_bad_scenes_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="no pink cube"):
        scene_of(("pink", "cube"))
    with pytest.raises(ValueError, match="need a relation"):
        scene_of(("red", "cube"), ("blue", "ball"))
    with pytest.raises(ValueError, match="one to three"):
        Scene(())
    with pytest.raises(ValueError, match="two toys"):
        pictures.swap_colours(scene_of(("red", "cube")))


def test_the_samples_in_the_repository_are_what_the_seed_gives(tmp_path):
    pictures.write_samples(tmp_path)
    committed = DATA / "samples" / "pictures"
    assert (tmp_path / "captions.jsonl").read_text() == (committed / "captions.jsonl").read_text()
    for fresh in sorted(tmp_path.glob("*.png")):
        ours, theirs = (np.asarray(Image.open(path), int) for path in (fresh, committed / fresh.name))
        # Another processor may round another way: nearly all pixels agree, none is far off.
        assert (np.abs(ours - theirs) <= 2).mean() > 0.99


def test_plain_drawings_show_one_toy_in_the_middle_of_the_grey():
    rng = np.random.default_rng(0)
    drawn = pictures.draw_plain([("red", "ball"), ("green", "cube"), ("red", "ball")], 0.4, 24, rng)
    assert drawn.shape == (3, 24, 24, 3) and np.allclose(drawn[:, 0, 0], 0.4)
    assert (drawn[[0, 2], 12, 12].argmax(1) == 0).all() and drawn[1, 12, 12].argmax() == 1
    assert not np.array_equal(drawn[0], drawn[2])  # light and paint differ
    with pytest.raises(ValueError, match="pink"):
        pictures.draw_plain([("pink", "ball")], 0.4, 24, rng)


def test_a_pair_is_named_with_its_article():
    assert [pictures.with_article(*pair) for pair in (("red", "cube"), ("orange", "ball"))] == [
        "a red cube",
        "an orange ball",
    ]
