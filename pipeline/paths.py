"""Where a run writes: everything below `<root>/<name>`."""

from __future__ import annotations

import os

from pipeline.config import Config


class Paths:
    """Folders of one pipeline; only `serving` may be elsewhere than on this machine."""

    def __init__(self, config: Config) -> None:
        root = os.path.abspath(os.path.expanduser(config.root))
        self.home = os.path.join(root, config.name)
        self.artifacts = os.path.join(self.home, "artifacts")
        self.metadata = os.path.join(self.home, "metadata.sqlite")
        self.schemas = os.path.join(self.home, "schema")
        self.checkpoints = os.path.join(self.home, "checkpoints")
        self.digits = os.path.join(root, "data", "digits")
        self.logs = os.path.join(self.home, "logs")
        self.lock = os.path.join(self.home, "lock")
        serving = config.serve.directory or os.path.join(self.home, "serving", config.serve.model_name)
        self.serving = serving if "://" in serving else os.path.abspath(os.path.expanduser(serving))
