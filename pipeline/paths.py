"""Where a run writes: everything below `<root>/<name>`."""

from __future__ import annotations

import os

from pipeline.config import Config


class Paths:
    """Folders of one pipeline. `root` may be any file system that TensorFlow reads."""

    def __init__(self, config: Config) -> None:
        root = config.root if "://" in config.root else os.path.abspath(config.root)
        self.home = os.path.join(root, config.name)
        self.artifacts = os.path.join(self.home, "artifacts")
        self.metadata = os.path.join(self.home, "metadata.sqlite")
        self.schemas = os.path.join(self.home, "schema")
        self.checkpoints = os.path.join(self.home, "checkpoints")
        self.digits = os.path.join(root, "data", "digits")
        self.logs = os.path.join(self.home, "logs")
        self.lock = os.path.join(self.home, "lock")
        self.serving = config.serve.directory or os.path.join(self.home, "serving", config.serve.model_name)
