"""What each memory keeps of a conversation, and what the search finds."""

import pytest
from test_agents import Scripted

from course_utils.agents import conversation_memory as memory
from course_utils.agents.conversation_memory import Note

TALK = [Note("Ada", "red cube"), Note("Ben", "blue star"), Note("Cleo", "white ring"), Note("Ada", "black ball")]


def filled(kind):
    for note in TALK:
        kind.add(note)
    return kind


def lines(kind, question="Ada"):
    return [str(note) for note in filled(kind).context(question)]


def test_each_memory_keeps_what_it_says():
    assert lines(memory.Window()) == [str(note) for note in TALK]
    assert lines(memory.Window(2)) == ["Cleo: white ring", "Ada: black ball"]
    assert lines(memory.Summary(size=1, lines=2)) == ["Ben: blue", "Cleo: white", "Ada: black ball"]
    assert lines(memory.Store()) == ["Ada: black ball"]
    assert lines(memory.Store(), "Zoe") == []


def test_what_is_held_is_the_newest_true_note():
    wanted = memory.truth(TALK)
    assert wanted == {"Ada": "black ball", "Ben": "blue star", "Cleo": "white ring"}
    assert memory.holds(filled(memory.Window()), wanted) == [True, True, True]
    assert memory.holds(filled(memory.Window(1)), wanted) == [True, False, False]
    assert memory.holds(filled(memory.Summary(1, 2)), wanted) == [True, False, False]
    stale = memory.Window()
    for note in (TALK[3], TALK[0]):  # the outdated note comes last
        stale.add(note)
    assert memory.holds(stale, {"Ada": "black ball"}) == [False]


def test_the_model_reads_the_context_and_only_exact_answers_count():
    asked = []
    chat = Scripted(lambda prompt: asked.append(prompt) or " black ball\nBen: blue star")
    assert memory.reads(chat, filled(memory.Store()), {"Ada": "black ball", "Ben": "blue star"}) == [True, False]
    assert asked == ["Ada: black ball\nAda:", "Ben: blue star\nBen:"]


def test_the_search_prefers_rare_words_and_leaves_out_what_shares_none():
    page = ["the toy is red", "the toy is blue", "the shop"]
    assert memory.closest("the blue toy", page, 2) == [1, 0]
    assert memory.closest("The BLUE?", page, 9)[0] == 1
    assert memory.closest("green", page, 3) == [] == memory.closest("green", [], 3)


def test_a_conversation_comes_from_its_seed_and_lets_everybody_speak_first():
    talk = memory.conversation(40, seed=3)
    assert talk == memory.conversation(40, seed=3) != memory.conversation(40, seed=4)
    assert len(talk) == 40 and len({note.who for note in talk[:24]}) == 24


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="one at least"):
        memory.Window(0)
    with pytest.raises(ValueError, match="has to speak once"):
        memory.conversation(5, seed=1)
