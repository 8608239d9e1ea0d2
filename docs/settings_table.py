"""Writes docs/settings.md: `python docs/settings_table.py docs/settings.md`."""

from __future__ import annotations

import sys

from components import files
from pipeline.config import options, presets
from pipeline.config.settings import Config

_HEAD = """# Settings

What `--set NAME=VALUE` and a configuration file can change, with the defaults; what a preset has
otherwise is in the last column. `python -m pipeline.local_runner --explain NAME` says the same of
one setting or section. Written by `python docs/settings_table.py docs/settings.md`.
"""


def page() -> str:
    """The whole page."""
    own = {name: options.explained(presets.get(name)) for name in presets.PRESETS}
    lines = [_HEAD]
    section = None
    config = Config()
    for name, (value, values, text) in options.explained(config).items():
        place = name.rpartition(".")[0]
        if place != section:
            section = place
            part = getattr(config, place) if place else config
            lines += [f"\n## {place or 'Without a section'}\n", f"{type(part).__doc__}\n"]
            lines += ["| setting | default | takes | what for | presets |", "|---|---|---|---|---|"]
        other = [
            f"{one}: {_code(found[name][0])}"
            for one, found in own.items()
            if found[name][0] != value
        ]
        cells = [f"`{name}`", _code(value), values, text, "; ".join(other)]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    files.write(sys.argv[1], page())
