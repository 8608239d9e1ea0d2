"""What settings are made of: types that know their range, and one sentence for a wrong value.

Settings are frozen dataclasses with `__pydantic_config__ = CONFIG`; the text under a field is its
help. No TensorFlow import: the command line and schedulers read these.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic_core import ErrorDetails, PydanticCustomError

CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True)
# Most of what counts something, unless a tighter bound is named: a larger one is a slip of the pen,
# which would ask for memory that no machine has, or for a time without end.
MAX_NUMBER = 10**9
# Keras seeds NumPy with one more, which takes 32 bits.
MAX_SEED = 2**32 - 2

_T = TypeVar("_T")


def _text(value: str) -> str:
    # Bytes of a path that are no UTF-8 come as lone surrogates, which no protocol buffer takes.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise PydanticCustomError("string_unicode", "no text")
    return value


def _items(value: Any) -> Any:
    """The items of a list as a command line has it: a,b or [a,b] or (a,b)."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    text = value.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
    return tuple(item.strip().strip("\"'") for item in text.split(",") if item.strip())


Text = Annotated[str, AfterValidator(_text)]
Items = Annotated[tuple[_T, ...], BeforeValidator(_items)]
# 0 or more, 1 or more.
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Positive = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# Finite, from 0; above 0.
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveAmount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# Parts of a whole: 0..1, above 0, below 1, between both.
Part = Annotated[float, Field(ge=0, le=1)]
PositivePart = Annotated[float, Field(gt=0, le=1)]
PartBelowOne = Annotated[float, Field(ge=0, lt=1)]
PartBetween = Annotated[float, Field(gt=0, lt=1)]


def build(kind: type[_T], tree: dict[str, Any], where: str = "", typed: bool = False) -> _T:
    """A settings dataclass from its fields, as JSON or a command line has them.

    Args:
      kind: the dataclass; its sections are dataclasses too.
      tree: field -> value. Missing fields have their defaults.
      where: section that stands in front of the fields' names in messages, such as "train.".
      typed: whether values have their fields' types already, as JSON has; otherwise numbers may be
        texts.

    Raises:
      ValueError: a sentence for every field that does not exist and every value that does not fit.
    """
    shown, adapter = json.dumps if typed else _plain, _adapter(typing.cast(Any, kind))
    try:
        built: _T = adapter.validate_python(tree)
        if typed:  # "3" is no number in JSON
            adapter.validate_json(json.dumps(tree), strict=True)
    except pydantic.ValidationError as error:
        sentences = [_sentence(kind, where, one, shown) for one in error.errors(include_url=False)]
        raise ValueError("\n".join(dict.fromkeys(sentences))) from None
    return built


def check(settings: Any, where: str = "") -> None:
    """Raises ValueError as `build` does, for settings that a program has made."""
    build(type(settings), dataclasses.asdict(settings), where)


def explain(kind: Any) -> dict[str, tuple[str, str, str]]:
    """Field -> its default as JSON, the values that it takes, and its help; no sections."""
    return {
        name: (json.dumps(field["default"]), _values(field), field["description"].strip())
        for name, field in _adapter(kind).json_schema()["properties"].items()
        if "type" in field
    }


def _values(schema: dict[str, Any]) -> str:
    """What a field takes, by its JSON schema."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "array":
        return f"a list, each {_values(schema['items'])}"
    kinds = {"integer": "a whole number", "boolean": "true or false", "string": "a text"}
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    said = [f"{word} {schema[key]:,}" for key, word in bounds.items() if key in schema]
    return ", ".join(
        [kinds.get(schema["type"], "a number"), *([" and ".join(said)] if said else [])]
    )


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _sentence(kind: Any, where: str, error: ErrorDetails, shown: Callable[[Any], str]) -> str:
    """One error of pydantic as this project says it."""
    path = [part for part in error["loc"] if isinstance(part, str)]
    name, value = where + ".".join(path), shown(error["input"])[:200]
    if not path:
        return f"{error['msg']}."
    section = functools.reduce(lambda k, part: typing.get_type_hints(k)[part], path[:-1], kind)
    if error["type"] == "unexpected_keyword_argument":
        valid = list(typing.get_type_hints(section))
        near = difflib.get_close_matches(path[-1], valid, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{name}: there is no {path[-1]}.{hint} Valid here: {', '.join(valid)}."
    if error["type"].startswith("dataclass"):
        valid = list(typing.get_type_hints(typing.get_type_hints(section)[path[-1]]))
        names = ", ".join(valid)
        return f"{name}={value}: {path[-1]} is a section; name one of its fields: {names}."
    if error["type"] == "string_unicode":
        return f"{name}={value}: must be UTF-8 text; rename what has this name, or link to it."
    return f"{name}={value}: must be {explain(section)[path[-1]][1]}."


def _plain(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, default=str)
    return value if value.isprintable() else ascii(value)
