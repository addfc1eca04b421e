"""When two questions count as the same."""

from hypothesis import given
from hypothesis import strategies as st

from hcnr.data.overlap import QuestionIndex, bucket, digest, normalize_question


def test_normal_form():
    assert (
        normalize_question("  Who wrote\tHamlet's\n«last» act?? ") == "who wrote hamlet s last act"
    )


def test_digest_and_bucket_as_sha256sum_has_it():
    # printf 'hcnr-mini-v1:who wrote hamlet s last act' | sha256sum
    expected = "4c0fbc6a541e22cb3b2fb068d4967e95e34cd6f9cc5a4b0408d6065e62d32fcf"
    assert digest("Who wrote Hamlet\u2019s last act?") == int(expected, 16)
    assert bucket("who wrote hamlet s last act") == 63


def test_one_token_may_differ_from_six_tokens_on():
    index = QuestionIndex(["One two three four five six?", "a b c d e"])
    assert index.equal("one, two three four five SIX")
    assert index.near("one two three four five six")
    assert index.near("one two other four five six")
    assert not index.equal("one two other four five six")
    assert not index.near("one two other four five other")
    assert not index.near("one two three four five")
    assert not index.near("a b c d x")
    assert index.near("a b c d e")
    assert len(index) == 2


def nearly_the_same(one: str, other: str) -> bool:
    """The rule, pair by pair."""
    mine, theirs = one.split(), other.split()
    if mine == theirs:
        return True
    if len(mine) != len(theirs) or len(mine) < 6:
        return False
    return sum(a != b for a, b in zip(mine, theirs, strict=True)) == 1


texts = st.lists(st.sampled_from("ab"), min_size=4, max_size=8).map(" ".join)


@given(st.lists(texts, max_size=6), texts)
def test_index_equals_the_quadratic_loop(known, asked):
    index = QuestionIndex(known)
    assert index.near(asked) == any(nearly_the_same(one, asked) for one in known)
    assert index.equal(asked) == (asked in known)
