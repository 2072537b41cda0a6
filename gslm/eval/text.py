"""One spelling for what was said: the text normalisation of word and character error rates."""

from __future__ import annotations

import re
import unicodedata

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = [
    "zero",
    "ten",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
]
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
# Signs that are spoken, and two spellings of one word where a recognizer's choice says nothing
# about what was heard. Kept short on purpose: every entry forgives an error.
_SIGNS = {"%": " percent ", "&": " and ", "+": " plus ", "@": " at ", "#": " pound ", "*": " star "}
_VARIANTS = {
    "ok": "okay",
    "e mail": "email",
    "voice mail": "voicemail",
    "mail box": "mailbox",
    "log in": "login",
    "touch tone": "touchtone",
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "canceled": "cancelled",
    "thru": "through",
}
_VARIANT_PATTERN = re.compile(r"\b(" + "|".join(map(re.escape, _VARIANTS)) + r")\b")


def number_words(number: int) -> str:
    """English words of a whole number from 0 to below 10**12: 42 -> `forty two`."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f" {_ONES[ones]}" if ones else "")
    for scale, name in _SCALES:
        if number >= scale:
            high, low = divmod(number, scale)
            return f"{number_words(high)} {name}" + (f" {number_words(low)}" if low else "")
    raise AssertionError("unreachable: the smallest scale is 100")


def ordinal_words(number: int) -> str:
    """English words of an ordinal: 21 -> `twenty first`."""
    *head, last = number_words(number).split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return " ".join([*head, last])


def normalize(text: str) -> str:
    """Lower-case words with single spaces between them: what error rates are counted on.

    Notes in brackets are dropped, numbers and spoken signs are spelled out, apostrophes vanish
    (`don't` -> `dont`), every other mark separates words, and a few spellings are made one.
    Numbers that start with 0 or have more than six digits are read digit by digit.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>", " ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"\$\s*(\d+)(?:\.(\d\d))?", _dollars, text)
    text = re.sub(r"(\d+)(?:st|nd|rd|th)\b", lambda m: f" {ordinal_words(int(m[1][:12]))} ", text)
    text = re.sub(r"(\d+)\.(\d+)", lambda m: f" {_spell(m[1])} point {_digits(m[2])} ", text)
    text = re.sub(r"\d+", lambda m: f" {_spell(m[0])} ", text)
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    # A.M. and p.m. are one word, however they are dotted.
    text = re.sub(r"\b([a-z])\.(?=[a-z]\b)", r"\1", text)
    text = text.replace("'", "")
    words = "".join(c if c.isalnum() else " " for c in text)
    words = " ".join(words.split())
    return _VARIANT_PATTERN.sub(lambda m: _VARIANTS[m[0]], words)


def _digits(digits: str) -> str:
    return " ".join(_ONES[int(d)] for d in digits)


def _spell(digits: str) -> str:
    if (digits.startswith("0") and len(digits) > 1) or len(digits) > 6:
        return _digits(digits)
    return number_words(int(digits))


def _dollars(match: re.Match[str]) -> str:
    cents = f" and {number_words(int(match[2]))} cents" if match[2] else ""
    return f" {_spell(match[1])} dollars{cents} "
