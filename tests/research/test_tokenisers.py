"""Byte-pair encoding by hand is the library's; bytes lose nothing; vocabularies of words lose what they must."""

from collections import Counter

import pytest

from course_utils.research import tokenisers


@pytest.fixture(scope="module")
def counts() -> Counter:
    counted: Counter = Counter()
    for chapter in tokenisers.manual()[:4]:
        counted.update(tokenisers.pieces(chapter))
    return counted


def test_pieces_lose_nothing() -> None:
    text = "Order 4821: it's  fine,\n naïve 東京."
    assert "".join(tokenisers.pieces(text)) == text
    assert tokenisers.pieces("two words") == ["two", " words"]


def test_the_merges_are_the_librarys(counts: Counter) -> None:
    letters = {letter for piece in counts for letter in piece}
    library = tokenisers.library_bpe(tokenisers.manual()[:4], len(letters) + 120)
    assert tokenisers.train(counts, 120) == tokenisers.library_merges(library)


def test_words_are_cut_as_the_library_cuts_them(counts: Counter) -> None:
    letters = {letter for piece in counts for letter in piece}
    library = tokenisers.library_bpe(tokenisers.manual()[:4], len(letters) + 120)
    ranks = tokenisers.numbered(tokenisers.library_merges(library))
    for piece in counts:
        assert list(tokenisers.encode(piece, ranks)) == library.encode(piece).tokens, piece


def test_of_equally_frequent_pairs_the_older_symbols_win() -> None:
    assert tokenisers.train({"cd": 3, "ab": 3}, 1) == [("a", "b")]
    assert tokenisers.train({"cd": 4, "ab": 3}, 1) == [("c", "d")]


def test_a_merge_goes_from_left_to_right_and_overlaps_never() -> None:
    assert tokenisers.merge("aaaab", ("a", "a")) == ("aa", "aa", "b")
    assert tokenisers.merge("aaa", ("a", "a")) == ("aa", "a")


def test_training_ends_when_nothing_is_left() -> None:
    assert tokenisers.train({"ab": 1}, 10) == [("a", "b")]
    assert tokenisers.train({"a": 5}, 10) == [] and tokenisers.train({}, 3) == []


def test_the_pair_learned_first_is_joined_first() -> None:
    ranks = tokenisers.numbered([("b", "c"), ("a", "b"), ("ab", "c")])
    assert tokenisers.encode("abc", ranks) == ("a", "bc")


def test_the_letters_of_bytes_are_those_of_the_library() -> None:
    from tokenizers import pre_tokenizers

    assert sorted(tokenisers.byte_letters().values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("naïve", "東京", " a\n", "हिन्दी"):
        assert [(tokenisers.as_bytes(text), (0, len(text)))] == theirs.pre_tokenize_str(text)


def test_rare_words_are_unknown_to_a_vocabulary_of_words() -> None:
    vocabulary = tokenisers.word_vocabulary({"the": 9, "cat": 2, "bat": 2}, 2)
    assert vocabulary == {"the", "bat"}
    assert tokenisers.word_tokens(["the", "cat"], vocabulary) == ["the", tokenisers.UNKNOWN]


def test_the_articles_are_the_same_in_each_language() -> None:
    assert {len(articles) for articles in tokenisers.RIGHTS.values()} == {6}


def test_gpt2s_vocabulary_charges_a_reader_of_hindi_more() -> None:
    encoding = tokenisers.gpt2()
    tokens = {language: sum(map(len, map(encoding.encode, said))) for language, said in tokenisers.RIGHTS.items()}
    assert tokens["Hindi"] > 5 * tokens["English"] and tokens["German"] > 1.5 * tokens["English"]
    assert encoding.encode(" SolidGoldMagikarp") == [43453]
