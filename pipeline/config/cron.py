"""Cron expressions that Airflow and Kubeflow read alike. Standard library only."""

from __future__ import annotations

import re

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
# Name, smallest, largest, names of the values from the smallest on.
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
# *, a value or a range, each with a step or without.
_PART = re.compile(r"(?:\*|([0-9A-Za-z]+)(?:-([0-9A-Za-z]+))?)(?:/([0-9]+))?")


def check(expression: str) -> None:
    """Finds what a scheduler does not take, and what never comes.

    Raises:
      ValueError: what is wrong with the expression; the message begins with a verb.
    """
    texts = expression.split(" ")
    if len(texts) != len(_FIELDS):
        raise ValueError(
            "must have five fields (minute, hour, day of month, month, day of week), such as '0 3 *"
            " * 0'."
        )
    values = [_values(text, *field) for text, field in zip(texts, _FIELDS, strict=True)]
    days, months, weekdays = values[2], values[3], texts[4]
    if weekdays.startswith("*") and min(days) > max(_LONGEST[month - 1] for month in months):
        raise ValueError(
            f"never comes, because month {texts[3]} has no day {texts[2]}; name an earlier day."
        )


def _values(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    try:
        return {value for part in text.split(",") for value in _part(part, low, high, names)}
    except ValueError:
        raise ValueError(
            f"is wrong: {text} is no {name}; it must be *, numbers from {low} to {high}"
            f"{' or names' if names else ''}, ranges a-b and steps /n."
        ) from None


def _part(text: str, low: int, high: int, names: tuple[str, ...]) -> range:
    match = _PART.fullmatch(text)
    if not match:
        raise ValueError(text)
    first, last, step = match.groups()
    begin = _number(first, low, names) if first else low
    # A lone value with a step runs on to the end.
    end = _number(last, low, names) if last else begin if first and not step else high
    if not low <= begin <= end <= high:
        raise ValueError(text)
    return range(begin, end + 1, int(step or 1))


def _number(word: str, low: int, names: tuple[str, ...]) -> int:
    return low + names.index(word.upper()) if word.upper() in names else int(word)
