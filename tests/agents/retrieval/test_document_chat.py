"""The chatbot over documents: follow-ups are seen, searches rank, a second look and a threshold do their work."""

import numpy as np
import pytest

from course_utils.agents.retrieval import document_chat, vectors
from course_utils.agents.retrieval.documents import Piece
from course_utils.agents.retrieval.faithful import MISSING

PIECES = [
    Piece("Goods can be sent back within 40 days. The box may be open.", "a.md", "Returns"),
    Piece("A parcel takes 3 days. Express costs 14 euros.", "a.md", "Delivery"),
    Piece("The oven for clay reaches 1,060 degrees.", "b.pdf", "page 2"),
    Piece("Vera runs the office.", "b.pdf", "page 3"),
]


@pytest.fixture(scope="module")
def library() -> document_chat.Library:
    texts = [document_chat.search_text(piece) for piece in PIECES]
    return document_chat.Library(PIECES, vectors.LatentWords(texts))


@pytest.fixture(scope="module")
def minilm():
    found = vectors.minilm(say=lambda line: None)
    if found is None:
        pytest.skip("MiniLM is not installed")
    return found


@pytest.mark.parametrize(
    "question",
    ["And a senator?", "How long does it take?", "What about Sundays?", "Who pays for that?", "not even then?"],
)
def test_follow_ups_are_seen_and_get_the_question_before(question):
    assert document_chat.is_follow_up(question)
    assert document_chat.rewritten(question, "A or B?") == f"A or B? {question}"


@pytest.mark.parametrize(
    "question", ["How long is the term of a senator?", "Android or Windows: which one?", "Items left?"]
)
def test_other_questions_stay_as_they_are(question):
    assert document_chat.rewritten(question, "Another one?") == question


def test_a_first_question_has_nothing_before_it():
    assert document_chat.rewritten("How long does it take?", "") == "How long does it take?"


def test_most_of_the_written_follow_ups_are_seen_and_most_others_are_not():
    follow_ups = [row["question"] for row in document_chat.questions("follow-up")]
    others = [row["question"] for row in document_chat.questions("single")]
    assert sum(map(document_chat.is_follow_up, follow_ups)) >= 0.85 * len(follow_ups)
    assert sum(map(document_chat.is_follow_up, others)) <= 0.2 * len(others)


def test_headings_help_a_search_and_page_numbers_do_not():
    assert document_chat.search_text(PIECES[1]).startswith("Delivery: A parcel")
    assert document_chat.search_text(PIECES[2]) == PIECES[2].text


def test_searches_rank_pieces_without_a_model(library):
    assert library.by_words("What does express cost?")[0] == 1
    assert library.by_meaning("oven clay")[0] == 2
    assert library.hybrid("goods sent back")[0] == 0
    assert library.by_words("zebra") == [] and sorted(library.hybrid("zebra")) == [0, 1, 2, 3]
    assert library.places("40 days", "a.md") == {0} and not library.places("40 days", "b.pdf")


def test_an_empty_library_is_refused():
    with pytest.raises(ValueError, match="nothing to search"):
        document_chat.Library([], vectors.LatentWords(["a"]))


def test_the_chatbot_quotes_follows_up_and_refuses(library):
    bot = document_chat.DocumentChat(library, library.by_words, threshold=0.1)
    first = bot.ask("When can goods be sent back?")
    assert str(first) == "Goods can be sent back within 40 days. [a.md, Returns]"
    assert bot.ask("And the box?").query == "When can goods be sent back? And the box?"
    refusal = bot.ask("Zebra?")
    assert (refusal.text, refusal.piece) == (MISSING, None)
    assert len(bot.replies) == 3 and bot.topic == "Zebra?"
    with pytest.raises(ValueError, match="empty"):
        bot.ask(" ")


def test_a_follow_up_is_not_the_topic_of_the_next_one(library):
    bot = document_chat.DocumentChat(library, library.by_words, threshold=0.0)
    bot.ask("When can goods be sent back?")
    bot.ask("And the box?")
    assert bot.ask("Who pays it?").query == "When can goods be sent back? Who pays it?"


def test_a_second_search_starts_from_what_was_found(library):
    seen = []

    def search(question: str) -> list[int]:
        seen.append(question)
        return [[3, 2, 1], [0, 3, 1]][len(seen) - 1]

    assert document_chat.second_search(library, search, "Q?", first=2, most=3) == [3, 2, 0]
    assert seen == ["Q?", "Q? Vera runs the office."]
    assert document_chat.second_search(library, lambda question: [], "Q?") == []


def test_the_threshold_parts_what_can_be_parted():
    cut = document_chat.best_threshold([0.6, 0.7, 0.9], [0.1, 0.4])
    assert 0.4 < cut < 0.6
    assert document_chat.best_threshold([0.5], [0.5]) > 0  # nothing parts them, and nothing breaks
    with pytest.raises(ValueError, match="without"):
        document_chat.best_threshold([], [0.1])


def test_questions_of_a_kind_and_part():
    tune, test = (document_chat.questions("absent", part) for part in ("tune", "test"))
    assert len(tune) == len(test) == 20
    assert not {row["question"] for row in tune} & {row["question"] for row in test}
    with pytest.raises(ValueError, match="follow-up"):
        document_chat.questions("riddle")


def test_the_second_look_reads_meaning_and_its_vectors_are_minilms(minilm):
    texts = [piece.text for piece in PIECES]
    late = document_chat.LateInteraction(minilm, texts)
    assert np.allclose(late.encode(texts), minilm.encode(texts), atol=1e-4)
    assert late.rerank("How hot does the kiln get?", [0, 1, 2, 3])[0] == 2
    assert late.rerank("How hot does the kiln get?", [0, 1, 2, 3], among=2)[2:] == [2, 3]
    assert 0 < late.score("Who is in the office?", 3) <= 1.001
