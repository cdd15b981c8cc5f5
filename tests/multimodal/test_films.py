"""The helpers of the lab on video: films that show and sound what their stories say, and fair questions."""

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.multimodal import films
from course_utils.multimodal.films import Films
from course_utils.prisma.shop import COLOURS


@pytest.fixture(scope="module")
def stories():
    rng = np.random.default_rng(0)
    return [films.draw_story(rng) for _ in range(400)]


def test_answers_are_what_happens(stories):
    for story in stories:
        colour, right, bounces, in_step = story.answers
        assert COLOURS[colour] == story.toy.colour
        assert (story.way[-1, 0] > story.way[0, 0]) == right
        assert len(story.hits) == len(story.heard) == bounces + 1
        assert (story.hits == story.heard) == in_step
        if not in_step:  # the nearest contact is clearly apart from each bounce that is heard
            assert all(min(abs(a - b) for b in story.hits) > 0.07 for a in story.heard)
        assert story.way.min() > 0 and story.way.max() < 1
    for i, answers in enumerate(films.QUESTIONS.values()):
        counts = np.bincount([story.answers[i] for story in stories], minlength=answers)
        assert len(counts) == answers and counts.min() > 0.6 * len(stories) / answers


def test_the_way_touches_the_floor_when_it_says(stories):
    for story in stories[:50]:
        lowest = story.way[:, 1].argmax()
        assert min(abs((lowest + 0.5) / films.FPS - hit) for hit in story.hits) < 0.07


def test_the_toy_is_drawn_where_the_story_puts_it(stories):
    story = next(s for s in stories if s.toy.pair == ("red", "ball"))
    film = films.draw_film(story, np.random.default_rng(0)).astype(float)
    assert film.shape == (films.FRAMES, 64, 64, 3)
    change = np.abs(film - np.median(film, 0)).sum(-1)
    for frame, place in zip(change, story.way * 64, strict=True):
        seen = np.argwhere(frame > 0.5 * frame.max()).mean(0)[::-1]
        assert np.abs(seen - place).max() < 5


def test_a_film_sounds_when_it_says(stories):
    story = next(s for s in stories if s.toy.colour == "purple" and len(s.heard) == 3)
    sound = np.abs(films.film_sound(story, np.random.default_rng(0)))
    loud = np.flatnonzero(sound > 0.1) / 16_000
    assert sound.shape == (films.FILM,)
    assert all(min(abs(t - hit) for hit in story.heard) < 0.06 for t in loud)
    assert all(np.abs(loud - hit).min() < 0.02 for hit in story.heard)


def test_the_figure_of_a_film_shows_its_frames_in_order():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    frames = np.arange(films.FRAMES, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    films.plot_film(ax, frames, "in step")
    row = ax.images[0].get_array()
    assert row.shape == (4, 4 * films.FRAMES, 3)
    assert row[0, ::4, 0].tolist() == list(range(films.FRAMES))


def test_the_figure_of_a_sound_shows_it_when_it_is_heard():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    sound = np.zeros(films.FILM)
    sound[8_000:8_080] = 0.5  # at half a second
    films.plot_sound(ax, sound, (0.5, 0.9))
    outline = ax.collections[0].get_paths()[0].vertices
    assert outline[outline[:, 1].argmax(), 0] == pytest.approx(0.5, abs=0.01)
    assert [line.get_xdata()[0] for line in ax.lines] == [0.5, 0.9]


def test_films_hold_what_eye_and_ear_give(eye):
    made = films.make_films(eye, 4, 0)
    assert made.frames.shape == (4, films.FRAMES, 640) and made.sound.shape == (4, films.FRAMES, 100)
    again = films.make_films(eye, 4, 0)
    assert len(made) == 4 and torch.equal(made.frames, again.frames) and torch.equal(made.answers, again.answers)
    (scaled,) = films.standardise(made)
    assert scaled.frames.mean().abs() < 1e-3 and 0.9 < scaled.sound.flatten(0, 1).std(0).median() < 1.1


def test_a_part_of_the_films_is_films():
    some = made_up(6, 0)
    part = some[some.answers[:, 1] == 1]
    assert len(part) == int(some.answers[:, 1].sum()) and part.answers[:, 1].all()
    assert torch.equal(some[torch.tensor([4])].frames[0], some.frames[4])


def test_a_delayed_sound_comes_later_and_nothing_else_changes(stories):
    story = next(s for s in stories if min(s.hits) > 0.2 and max(s.hits) < 0.9)
    late = films.delayed(story, 0.1)
    assert late.hits == story.hits and late.toy == story.toy
    assert np.allclose(np.subtract(late.heard, story.hits), 0.1)
    before, after = (films.film_sound(films.delayed(story, d), np.random.default_rng(0)) for d in (0.0, 0.1))
    assert np.abs(after[1600:] - before[:-1600]).max() < 0.05  # the noise is its own


def made_up(n: int, seed: int) -> Films:
    """Films in which a number grows or falls; the sound says the rest outright."""
    draw = torch.Generator().manual_seed(seed)
    answers = torch.stack([torch.randint(k, (n,), generator=draw) for k in films.QUESTIONS.values()], 1)
    ramp = torch.linspace(-1, 1, films.FRAMES) * (2 * answers[:, 1:2] - 1)
    sound = torch.stack([answers[:, 2] - 1.0, 2.0 * answers[:, 3] - 1], 1)[:, None].repeat(1, films.FRAMES, 1)
    return Films(ramp[..., None], sound, answers)


def test_shuffling_changes_the_order_and_nothing_else():
    some = made_up(20, 0)
    mixed = films.shuffled(some, 0)
    assert torch.equal(mixed.frames.sort(1).values, some.frames.sort(1).values)
    assert not torch.equal(mixed.frames, some.frames) and torch.equal(mixed.sound, some.sound)
    assert not torch.equal(mixed.frames[0].abs(), mixed.frames[1].abs())  # each film in its own order


class Reads(nn.Module):
    """A GRU over moments, or their mean."""

    def __init__(self, order: bool):
        super().__init__()
        self.order, self.gru, self.answer = order, nn.GRU(3, 24, batch_first=True), nn.Linear(24 if order else 3, 15)

    def forward(self, frames, sound):
        x = torch.cat([frames, sound], 2)
        return self.answer(self.gru(x)[0][:, -1] if self.order else x.mean(1))


def test_only_a_reader_with_order_knows_which_way():
    train, test = made_up(400, 0), made_up(200, 1)
    torch.manual_seed(0)
    mean, gru = (films.marks(films.fit(Reads(order), train, 0, steps=200), test) for order in (False, True))
    assert gru["which way"] > 0.95 and 0.35 < mean["which way"] < 0.65
    assert mean["sound in step"] > 0.95 and list(gru) == list(films.QUESTIONS)
