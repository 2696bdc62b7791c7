"""What runs of one process leave for those after them."""

from dnnjob.latest import Latest


def test_the_one_that_was_of_no_use_for_longest_goes_first() -> None:
    kept = Latest[str](most=2)
    kept.keep("a")
    kept.keep("b")
    assert kept.find(lambda one: one == "a") == "a"
    kept.keep("c")

    assert list(kept) == ["c", "a"]
    assert kept.find(lambda one: one == "b") is None


def test_one_that_is_kept_again_stands_there_once() -> None:
    kept = Latest[str](most=2)
    kept.keep("ab")
    kept.keep("".join(["a", "b"]))
    assert list(kept) == ["ab"]
    kept.clear()
    assert list(kept) == []
