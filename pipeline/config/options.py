"""A configuration from a preset, a JSON file and --set. Standard library only."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable
from typing import Any

from pipeline.config import presets, validity
from pipeline.config.settings import Config, ConfigError

# Of a configuration; devices have no end.
_MOST_BYTES = 2**20


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `resolve` reads; every runner has them."""
    parser.add_argument(
        "--preset",
        default="digits",
        metavar="NAME",
        help="start from: " + ", ".join(presets.PRESETS),
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one setting; repeatable",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="start from a configuration of --print-config, not from a preset",
    )
    parser.add_argument(
        "--no-cache",
        action="append",
        default=[],
        metavar="NODE",
        help="run this component although nothing has changed; repeatable",
    )


def resolve(args: argparse.Namespace) -> Config:
    """The checked configuration that the options of `add` say.

    Raises:
      ConfigError: unknown preset, name or value.
    """
    config = read(args.config) if args.config else presets.get(args.preset)
    config = assign(config, args.set)
    if args.no_cache:
        config = dataclasses.replace(config, no_cache=(*config.no_cache, *args.no_cache))
    validity.check(config)
    return config


def from_dict(tree: dict[str, Any]) -> Config:
    """The configuration that `to_dict` was made from."""
    return _build(Config, tree, "")


def read(path: str) -> Config:
    """The configuration in a JSON file, as `--print-config` prints it; not checked yet.

    Raises:
      ConfigError: there is none.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(f"it is longer than {_MOST_BYTES:,} bytes.")
        # Some editors put a mark in front of the text.
        tree = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)
        if not isinstance(tree, dict):
            raise ConfigError("it must be an object, {...}, with names and sections.")
        return from_dict(tree)
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read as a configuration, which is JSON as --print-config prints it:"
            f" {error}"
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; the last of two values would win without a word."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{twice} is there twice in one section; keep one.")
    return tree


def assign(config: Config, assignments: Iterable[str]) -> Config:
    """Applies `section.field=value` strings (`name=`, `root=` and `cache=` have no section).

    Values are JSON or plain words: `train.epochs=3`, `data.source=/data`,
    `train.boundaries=[30,60]`, `evaluate.protocols=center,ten_crop`.

    Raises:
      ConfigError: unknown name, or a value that does not fit the field's type.
    """
    for assignment in assignments:
        key, sep, value = assignment.partition("=")
        if not sep:
            raise ConfigError(
                f"--set {assignment}: must be section.field=value, such as train.epochs=3."
            )
        config = _assign(config, key.strip().split("."), value, key.strip())
    return config


def _assign(node: Any, path: list[str], value: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    hints = typing.get_type_hints(type(node))
    if name not in hints:
        raise ConfigError(_unknown(name, f"--set {key}", hints))
    if dataclasses.is_dataclass(hints[name]):
        if not rest:
            fields = ", ".join(typing.get_type_hints(hints[name]))
            raise ConfigError(
                f"--set {key}: {name} is a section; name one of its fields: {fields}."
            )
        return dataclasses.replace(node, **{name: _assign(getattr(node, name), rest, value, key)})
    if rest:
        raise ConfigError(f"--set {key}: {name} is a value and has no field {rest[0]}.")
    return dataclasses.replace(node, **{name: _parse(hints[name], value, key)})


def _unknown(name: str, key: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key}: there is no {name}.{hint} Valid here: {', '.join(valid)}."


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _parse(kind: Any, text: str, key: str) -> Any:
    if kind is str:
        return _text(text, f"--set {key}")
    if typing.get_origin(kind) is tuple:
        items = text.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
        parts = [p.strip().strip("\"'") for p in items.split(",") if p.strip()]
        return tuple(_parse(typing.get_args(kind)[0], p, key) for p in parts)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.strip().lower()
            ]
        return kind(text.replace("_", ""))
    except (KeyError, ValueError):
        raise ConfigError(f"--set {key}={text}: must be {_NAMES[kind]}.") from None


def _build(kind: Any, tree: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in tree.items():
        if name not in hints:
            raise ConfigError(_unknown(name, f"{where}{name}", hints))
        values[name] = _value(hints[name], value, f"{where}{name}")
    return kind(**values)


def _value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, f"{key}.")
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(typing.get_args(hint)[0], item, key) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(
            f"{key}={json.dumps(value)}: must be {_NAMES.get(hint, 'a list or a section')}."
        )
    return _text(value, key) if hint is str else value


def _text(value: str, key: str) -> str:
    # Bytes of a path that are no UTF-8 come as lone surrogates, which no protocol buffer takes.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigError(
            f"{key}={value!a}: must be UTF-8 text; rename what has this name, or link to it."
        )
    return value
