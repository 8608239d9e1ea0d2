"""Where a run writes, by default below `<root>/<name>`, and which other places it names."""

from __future__ import annotations

import os

from models.weights.named import catalogue
from pipeline.config import beam_arguments
from pipeline.config.options import from_dict
from pipeline.config.settings import Config, to_dict


class Paths:
    """Folders of one pipeline; `artifacts` and `serving` may be elsewhere than on this machine.

    What other machines need to read or to continue with goes along with the artifacts.
    """

    def __init__(self, config: Config) -> None:
        root = os.path.abspath(os.path.expanduser(config.root))
        self.home = os.path.join(root, config.name)
        self.artifacts = _absolute(config.artifacts or os.path.join(self.home, "artifacts"))
        shared = self.artifacts if config.artifacts else self.home
        self.metadata = os.path.join(self.home, "metadata.sqlite")
        self.schemas = os.path.join(shared, "schema")
        self.checkpoints = os.path.join(shared, "checkpoints")
        # Statistics of the accepted spans, which the next span is compared with.
        self.spans = os.path.join(shared, "spans")
        # Where a source is written that is embedded.
        self.embedded = os.path.join(root, "data", config.data.kind)
        # What a production server needs besides the model (pipeline.serving_files).
        self.deployment = os.path.join(self.home, "deployment")
        self.logs = os.path.join(self.home, "logs")
        self.lock = os.path.join(self.home, "lock")
        self.serving = _absolute(
            config.serve.directory or os.path.join(shared, "serving", config.serve.model_name)
        )
        # --model_config_file of the servers, where pushed versions are on trial first.
        self.model_config = os.path.join(os.path.dirname(self.serving), "models.config")


def settings(config: Config) -> dict[str, tuple[str, ...]]:
    """Settings that name files or folders, with what they name, if anything."""
    own_schema = config.data.schema not in ("curated", "infer")
    start = config.train.init_from
    jar = not beam_arguments.is_address(config.beam.job_server)
    found = {
        "root": (config.root,),
        "artifacts": (config.artifacts,),
        "data.source": (config.data.source,),
        "data.schema": (config.data.schema if own_schema else "",),
        "model.ensemble": config.model.ensemble,
        "train.init_from": ("" if catalogue.is_name(start) else start,),
        "train.checkpoint_dir": (config.train.checkpoint_dir,),
        "serve.directory": (config.serve.directory,),
        "beam.job_server": (config.beam.job_server if jar else "",),
    }
    return {name: places for name, places in found.items() if any(places)}


def absolute(config: Config) -> Config:
    """The configuration with paths that hold in every working folder."""
    tree = to_dict(config)
    for name, places in settings(config).items():
        *section, field = name.split(".")
        at = tree[section[0]] if section else tree
        whole = [_absolute(place) for place in places]
        at[field] = whole if isinstance(at[field], list) else whole[0]
    return from_dict(tree)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))
