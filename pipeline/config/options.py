"""The options that name a configuration; every runner has them. Standard library only."""

from __future__ import annotations

import argparse
import dataclasses

from pipeline.config import presets, validity
from pipeline.config.settings import Config
from pipeline.config.text import assign, read


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
