"""What is wrong with a text that is no JSON, and where: in the words of TensorFlow Serving's
RapidJSON.
"""

from __future__ import annotations

import json
import re

_LITERALS = ("null", "true", "false", "NaN", "Infinity")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[][{}]")
# A number that ends here; the second part is its fraction.
_NUMBER = re.compile(r"\d+(\.\d+)?\Z")
_DIGITS = 400
# Characters that are looked through for the bracket around a mistake. Longer texts are taken to be
# arrays.
_LONGEST = 2**20
# What Python's parser says at the same place.
_SAME = {
    "Expecting property name": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Invalid \\escape": "Invalid escape character in string.",
}


def explain(text: str, error: json.JSONDecodeError) -> tuple[str, int]:
    """The reason and the place (characters from the start) of what Python's parser has found."""
    at = error.pos
    for start, reason in _SAME.items():
        if error.msg.startswith(start):
            return reason, at
    if error.msg.startswith("Expecting ',' delimiter"):
        return _after_value(text, at)
    if error.msg.startswith("Invalid \\u"):
        return "Incorrect hex digit after \\u escape in string.", text.rfind("\\", 0, at + 1)
    if error.msg.startswith("Unterminated string"):
        return "Missing a closing quotation mark in string.", len(text)
    if error.msg.startswith("Invalid control character"):
        if text[at] == "\0":
            return "Missing a closing quotation mark in string.", at
        return "Invalid escape character in string.", at
    if text[at : at + 1] in ("", *"}],:") and not at:
        return "The document is empty.", at
    return "Invalid value.", at + _known_part(text[at : at + 10])


def _known_part(text: str) -> int:
    """Characters that are read before they turn out to be no literal or number."""
    literal = next((word for word in _LITERALS if text.startswith(word[0])), "-")
    count = 0
    while text[count : count + 1] == literal[count : count + 1] != "":
        count += 1
    return count


def _after_value(text: str, at: int) -> tuple[str, int]:
    """What follows a value and may not."""
    number = _NUMBER.search(text[max(at - _DIGITS, 0) : at])
    following = text[at : at + 2]
    if number and not number[1] and following[:1] == ".":
        return "Miss fraction part in number.", at + 1
    if number and following[:1] in ("e", "E"):
        return "Miss exponent in number.", at + (2 if following[1:] in ("+", "-") else 1)
    if _within_object(text[:at]):
        return "Missing a comma or '}' after an object member.", at
    return "Missing a comma or ']' after an array element.", at


def _within_object(before: str) -> bool:
    """Whether the innermost bracket that is open at the end is one of an object."""
    if len(before) > _LONGEST:
        return False
    depth = 0
    for bracket in reversed(_BRACKET.findall(_STRING.sub("", before))):
        depth += 1 if bracket in "]}" else -1
        if depth < 0:
            return bracket == "{"
    return False
