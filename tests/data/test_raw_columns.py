"""Raw rows, against pandas."""

import numpy as np
import pandas as pd

from dnnjob.data.raw_columns import Texts, join_texts, take_rows

WORDS = ["b", None, "a", "b", " ? ", "c", ""]


def rows_of(texts: Texts) -> list[str | None]:
    return [None if code < 0 else texts.values[code] for code in texts.codes]


def test_texts_hold_each_word_once_in_the_order_of_rows() -> None:
    texts = Texts.of(WORDS)
    assert (len(texts), texts.num_missing) == (7, 1)
    assert texts.values == ("b", "a", " ? ", "c", "")
    assert rows_of(texts) == WORDS


def test_counts_are_those_of_pandas_also_where_no_row_has_a_word() -> None:
    texts = Texts.of(WORDS).take(slice(0, 4))
    assert texts.counts() == pd.Series(WORDS[:4]).value_counts().to_dict()


def test_the_empty_text_and_markers_are_missing() -> None:
    texts = Texts.of(WORDS).without(["?"])
    assert rows_of(texts) == ["b", None, "a", "b", None, "c", None]
    assert texts.values == ("b", "a", "c")


def test_words_that_become_one_share_a_place() -> None:
    texts = Texts.of(["01", "1", None, "2"]).renamed(lambda text: str(int(text)))
    assert (rows_of(texts), texts.values) == (["1", "1", None, "2"], ("1", "2"))


def test_words_without_rows_are_dropped() -> None:
    assert Texts(np.array([1, -1], np.int32), ("a", "b")).renamed(str).values == ("b",)


def test_joined_texts_follow_each_other() -> None:
    parts = [Texts.of(["a", None]), Texts.of([]), Texts.of(["b", "a"])]
    joined = join_texts(parts)
    assert rows_of(joined) == ["a", None, "b", "a"]
    assert joined.values == ("a", "b")


def test_texts_become_the_numbers_of_a_table() -> None:
    numbers = Texts.of(["a", None, "z"]).translated({"a": 5.0}, other=1.0, missing=7.0)
    np.testing.assert_array_equal(numbers, np.array([5, 7, 1], np.float32))
    assert numbers.dtype == np.float32


def test_the_first_text_of_some_is_found() -> None:
    assert Texts.of([None, "a", "b"]).first_of(["b", "c"]) == "b"
    assert Texts.of([None, "a"]).first_of(["b"]) is None


def test_rows_are_taken_from_all_columns() -> None:
    block = {"n": np.arange(3.0), "t": Texts.of(["x", "y", "z"])}
    taken = take_rows(block, np.array([2, 0]))
    np.testing.assert_array_equal(taken["n"], [2, 0])
    assert isinstance(taken["t"], Texts)
    assert rows_of(taken["t"]) == ["z", "x"]
