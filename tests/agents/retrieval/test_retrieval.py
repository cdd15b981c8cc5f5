"""Chunks, searches, stores and rankings of the lab on retrieval, and the text that it searches."""

import shutil

import numpy as np
import pytest

from course_utils.agents.retrieval import chunks, constitution, keyword_search, ranking, vector_stores, vectors

DOCUMENT = "One is here. Two stands beside it!\n\nA heading\n\nThree (the last) comes. Four ends it."
NOTES = ["Goods can be returned within 30 days.", "Shipping costs 5 euros.", "Order 4821 is packed."]


@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (3, 1), (8, 2), (100, 1)])
def test_chunks_are_the_documents_own_text_and_lose_no_word(size: int, overlap: int) -> None:
    made = chunks.chunk(DOCUMENT, "a.txt", size, overlap)
    assert all(DOCUMENT[one.start :].startswith(one.text) for one in made)
    assert all(len(one.text.split()) <= size for one in made)
    assert {word for one in made for word in one.text.split()} == set(DOCUMENT.split())
    assert [one.start for one in made] == sorted(one.start for one in made)


def test_neighbours_share_as_many_sentences_as_asked_for() -> None:
    first, second = chunks.chunk("A b c. D e f. G h i.", "x", size=6, overlap=1)
    assert (first.text, second.text) == ("A b c. D e f.", "D e f. G h i.")
    first, second = chunks.chunk("A b c. D e f. G h i.", "x", size=6, overlap=0)
    assert (first.text, second.text) == ("A b c. D e f.", "G h i.")


@pytest.mark.parametrize(("size", "overlap"), [(30, 1), (80, 1), (80, 2), (160, 1)])
def test_every_chunk_brings_something_new(size: int, overlap: int) -> None:
    made = chunks.chunk(constitution.text(), "a.txt", size, overlap)
    ends = [one.start + len(one.text) for one in made]
    assert ends == sorted(set(ends))


def test_chunks_of_nothing_and_of_no_size() -> None:
    assert chunks.chunk(" \n\n ", "x") == []
    with pytest.raises(ValueError, match="at least 1 word"):
        chunks.chunk("A b.", "x", size=0)
    with pytest.raises(ValueError, match="overlap at least 0"):
        chunks.chunk("A b.", "x", overlap=-1)


def test_bm25_prefers_rare_words_and_finds_nothing_without_a_shared_one() -> None:
    search = keyword_search.BM25(["the the the cube", "the ball", "a star"])
    assert [place for place, _ in search.search("the ball", 3)] == [1, 0]
    assert search.search("postage", 3) == []
    # Two documents, one of them with the word: log(1 + 1.5 / 1.5) times a term frequency part of 1 at mean length.
    alone = keyword_search.BM25(["ball", "cube"])
    assert alone.score("ball", 0) == pytest.approx(np.log(2))
    with pytest.raises(ValueError, match="nothing to search"):
        keyword_search.BM25([])


@pytest.mark.parametrize("kind", [vectors.BagOfWords, vectors.LatentWords])
def test_counted_vectors_have_length_one_or_zero(kind: type) -> None:
    encoded = kind(NOTES).encode([*NOTES, "unheard of", ""])
    assert encoded.dtype == np.float32 and len(encoded) == 5
    assert np.linalg.norm(encoded, axis=1) == pytest.approx([1, 1, 1, 0, 0], abs=1e-5)
    assert (encoded[:3] @ encoded[:3].T).argmax(1).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="nothing to count"):
        kind([])


def test_without_the_package_the_fallback_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PACKAGE", "no_such_package")
    monkeypatch.setenv("COURSE_TIER", "bundled")
    said: list[str] = []
    assert vectors.minilm(said.append) is None
    [line] = said
    assert "extra 'agents' is not installed" in line and "What it costs" in line and "To get the better one" in line


def test_files_that_are_not_the_published_ones_are_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        vectors.as_published(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is not the file of sentence-transformers/all-MiniLM-L6-v2"):
        vectors.as_published(tmp_path)


@pytest.mark.skipif(vectors.packaged_folder() is None, reason="the extra 'agents' is not installed")
def test_the_packages_weights_are_the_published_ones(tmp_path) -> None:
    folder = vectors.as_published(vectors.packaged_folder())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file"):
        vectors.as_published(tmp_path)


def test_every_store_finds_what_the_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 16))
    ids = [f"n{place}" for place in range(120)]
    exact = vector_stores.NumpyStore()
    exact.add(ids, rows)
    order = np.argsort(-(vectors.unit_length(rows) @ vectors.unit_length(rows[7:8])[0]), kind="stable")[:5]
    assert [hit.id for hit in exact.search(rows[7], 5)] == [ids[place] for place in order]
    for kind in vector_stores.kinds():
        store = kind()
        store.add(ids[:60], rows[:60])
        store.add(ids[60:], rows[60:])
        assert len(store) == 120
        for query in rows[:10] + 0.1:
            found, wanted = store.search(query, 4), exact.search(query, 4)
            assert [hit.id for hit in found] == [hit.id for hit in wanted]
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=1e-4)


@pytest.mark.parametrize("kind", vector_stores.kinds())
def test_stores_refuse_what_makes_no_sense(kind: type) -> None:
    store = kind()
    assert store.search(np.ones(3), 2) == []
    store.add(["a"], np.ones((1, 3)))
    assert len(store.search(np.ones(3), 9)) == 1
    for ids, rows, words in (
        (["b", "c"], np.ones((1, 3)), "2 ids need vectors"),
        (["a"], np.ones((1, 3)), "once"),
        (["b"], np.ones((1, 4)), "4 wide"),
        (["b"], np.full((1, 3), np.nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            store.add(ids, rows)
    with pytest.raises(ValueError, match="at least one result"):
        store.search(np.ones(3), 0)
    with pytest.raises(ValueError, match="one vector of shape"):
        store.search(np.ones(4), 1)


def test_without_chroma_there_are_two_stores_and_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_stores, "has_chroma", lambda: False)
    assert [kind.name for kind in vector_stores.kinds()] == ["NumPy", "FAISS"]
    with pytest.raises(ImportError, match="FAISS and NumPy store the same"):
        vector_stores.ChromaStore()


def test_reciprocal_rank_fusion() -> None:
    assert ranking.reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]]) == ["b", "a", "d", "c"]
    assert ranking.reciprocal_rank_fusion([]) == []
    with pytest.raises(ValueError, match="twice"):
        ranking.reciprocal_rank_fusion([["a", "a"]])
    with pytest.raises(ValueError, match="k is -1"):
        ranking.reciprocal_rank_fusion([["a"]], -1)


def test_recall_and_gain() -> None:
    found = [["a", "b"], ["c", "d"]]
    assert ranking.hits(found, [{"b"}, {"c"}], 1) == [False, True]
    assert ranking.recall(found, [{"b"}, {"c"}], 2).value == 1
    assert ranking.hits(found, [set(), {"x"}], 2) == [False, False]
    with pytest.raises(ValueError, match="one each"):
        ranking.hits(found, [{"a"}], 1)
    gain = ranking.gain([True] * 30 + [False] * 10, [False] * 40)
    assert gain.value == 75 and gain.low > 50
    with pytest.raises(ValueError, match="same questions"):
        ranking.gain([True], [])


def test_the_questions_can_be_answered_from_the_text() -> None:
    whole = constitution.text()
    asked = [*constitution.questions(), *constitution.lookups()]
    assert (len(constitution.questions()), len(constitution.lookups())) == (80, 40)
    assert len({one.text for one in asked}) == 120
    assert all(phrase in whole for one in asked for phrase in one.says)
    pieces = chunks.chunk(whole, constitution.SOURCE, 160, 1)
    assert all(constitution.answering(pieces, one) for one in asked)
    # In other words: hardly a question holds its own answer's phrase.
    assert not any(phrase.lower() in one.text.lower() for one in constitution.questions() for phrase in one.says)
