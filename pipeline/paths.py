"""Where a run writes: everything below `<root>/<name>`."""

from __future__ import annotations

import os

from pipeline.config import Config


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
        self.digits = os.path.join(root, "data", "digits")
        self.logs = os.path.join(self.home, "logs")
        self.lock = os.path.join(self.home, "lock")
        self.serving = _absolute(
            config.serve.directory or os.path.join(shared, "serving", config.serve.model_name)
        )


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))
