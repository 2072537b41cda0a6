import pytest
from hypothesis import given
from hypothesis import strategies as st

from gslm.eval.text import normalize, number_words, ordinal_words


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Press 1 to record.", "press one to record"),
        ("press # or * now", "press pound or star now"),
        ("28.8 kilobit", "twenty eight point eight kilobit"),
        ("1,234 calls", "one thousand two hundred thirty four calls"),
        ("dial 5551234", "dial five five five one two three four"),
        ("the 21st and the 3rd", "the twenty first and the third"),
        ("It costs $3.20 or $5", "it costs three dollars and twenty cents or five dollars"),
        ("half past 9 A.M.", "half past nine am"),
        ("don’t “quote” — e-mail", "dont quote email"),
        ("voice mail", "voicemail"),
        ("[a tone] hello (note) <noise>", "hello"),
        ("…", ""),
    ],
)
def test_normalize_writes_what_is_said(written, spoken):
    assert normalize(written) == spoken


@given(st.text(max_size=40))
def test_normalize_twice_changes_nothing(text):
    once = normalize(text)
    assert normalize(once) == once


def test_numbers_and_ordinals():
    assert number_words(0) == "zero"
    assert number_words(1_002_017) == "one million two thousand seventeen"
    found = [ordinal_words(n) for n in (1, 12, 20, 45, 1000)]
    assert found == ["first", "twelfth", "twentieth", "forty fifth", "one thousandth"]


@given(st.integers(0, 10**12 - 1))
def test_number_words_are_distinct_from_neighbours(number):
    assert number_words(number) != number_words((number + 1) % 10**12)
