"""A configuration from a preset, a JSON file and --set."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from models import fields
from pipeline.config import presets, validity
from pipeline.config.settings import Config, ConfigError, to_dict

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
    """The checked configuration that the options of `add` say; ConfigError where one is wrong."""
    config = read(args.config) if args.config else presets.get(args.preset)
    config = assign(config, args.set)
    if args.no_cache:
        config = dataclasses.replace(config, no_cache=(*config.no_cache, *args.no_cache))
    validity.check(config)
    return config


def explain(config: Config, only: str = "") -> str:
    """The settings: their values, what they are for, and which values they take.

    Args:
      config: whose values are shown.
      only: one setting, such as train.epochs, or a section; "" for all.

    Raises:
      ConfigError: there is no such setting.
    """
    found = {name: one for name, one in explained(config).items() if _within(name, only)}
    if not found:
        near = difflib.get_close_matches(only, explained(config), n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        sections = [name for name, part in vars(config).items() if dataclasses.is_dataclass(part)]
        raise ConfigError(
            f"--explain {only}: there is no such setting.{hint} Sections: {', '.join(sections)}."
        )
    lines = []
    section = None
    for name, (value, values, purpose) in found.items():
        own = name.rpartition(".")[0]
        if own != section:
            section = own
            part = getattr(config, own) if own else config
            lines += [f"{own or 'Without a section'}: {type(part).__doc__}", ""]
        takes = "" if values == "a text" else f" [{values}]"
        lines += [f"  {name}={value}", f"      {purpose}{takes}", ""]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="      ") for line in lines)


def _within(name: str, only: str) -> bool:
    return only in ("", name) or name.startswith(f"{only}.")


def explained(config: Config) -> dict[str, tuple[str, str, str]]:
    """Every setting by its name: its value, which values it takes, and what it is for."""
    found = {}
    sections = [("", config), *((f"{name}.", part) for name, part in vars(config).items())]
    for where, part in sections:
        if not dataclasses.is_dataclass(part):
            continue
        for name, (_, values, purpose) in fields.explain(type(part)).items():
            value = getattr(part, name)
            found[where + name] = (text(value), values, " ".join(purpose.split()))
    return found


def from_dict(tree: dict[str, Any], typed: bool = False) -> Config:
    """The configuration that `to_dict` was made from; `typed` as for `models.fields.build`.

    Raises:
      ConfigError: unknown names or values.
    """
    try:
        return fields.build(Config, tree, typed=typed)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def preset(tree: Mapping[str, Any]) -> Config:
    """The preset that a configuration (of `to_dict`) names; the first one where there is none."""
    known = tree["preset"] in presets.PRESETS
    return presets.get(tree["preset"] if known else next(iter(presets.PRESETS)))


def changes(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that differ from the preset: `setting` (its name in `assign`), `value` and
    `preset`.

    Args:
      tree: of `to_dict`, of an earlier release too.
    """
    base = flat(to_dict(preset(tree)))
    return [
        {"setting": name, "value": value, "preset": base.get(name)}
        for name, value in flat(tree).items()
        if value != base.get(name) and name != "preset"
    ]


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `to_dict` by the names of settings, such as train.epochs."""
    return {
        f"{name}.{field}" if field else name: one
        for name, value in tree.items()
        for field, one in (value.items() if isinstance(value, dict) else [("", value)])
    }


def text(value: Any) -> str:
    """The value of a setting as `assign` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def read(path: str) -> Config:
    """The unchecked configuration in a JSON file; raises ConfigError where there is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(f"it is longer than {_MOST_BYTES:,} bytes.")
        # Some editors put a mark in front of the text.
        tree = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once)
        if not isinstance(tree, dict):
            raise ConfigError("it must be an object, {...}, with names and sections.")
        return from_dict(tree, typed=True)
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
      ConfigError: a sentence for every unknown name and every value that does not fit its field.
    """
    tree = to_dict(config)
    for assignment in assignments:
        key, sep, value = assignment.partition("=")
        if not sep or "" in key.strip().split("."):
            raise ConfigError(
                f"--set {assignment}: must be section.field=value, such as train.epochs=3."
            )
        *sections, name = key.strip().split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {key}: {section} is a value and has no field {name}.")
        node[name] = value
    return from_dict(tree)
