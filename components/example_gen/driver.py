"""TFX's driver for files whose names TensorFlow cannot return."""

from __future__ import annotations

import glob
import hashlib
import os
from typing import Any

from tfx.components.example_gen import driver, input_processor

from components.example_gen import files
from components.example_gen.errors import SourceError


class _Processor(input_processor.FileBasedInputProcessor):
    """TensorFlow's glob fails on a name that is not UTF-8; Python's does not.

    Such files reach the executor, which quarantines them by name.
    """

    _own = ""

    def resolve_span_and_version(self) -> tuple[int, int | None]:
        try:
            return super().resolve_span_and_version()
        except UnicodeDecodeError:
            self._own = self._fingerprint_of_all()
            return 0, None

    def get_input_fingerprint(self, span: int, version: int | None) -> str | None:
        return self._own or super().get_input_fingerprint(span, version)

    def _fingerprint_of_all(self) -> str:
        digest = hashlib.sha256()
        for split in self._splits:
            pattern = os.path.join(self._input_base_uri, split.pattern)
            if "{" in split.pattern or files.is_remote(pattern):
                raise SourceError(f"A file of {pattern} has a name that is not UTF-8: rename it.")
            for path in sorted(glob.glob(pattern)):
                stat = os.stat(path)
                digest.update(os.fsencode(f"{path} {stat.st_size} {int(stat.st_mtime)}\n"))
        return digest.hexdigest()


class Driver(driver.FileBasedDriver):
    """FileBasedDriver that goes on where a file name is not UTF-8."""

    def get_input_processor(
        self, splits: Any, range_config: Any = None, input_base_uri: str | None = None
    ) -> input_processor.InputProcessor:
        """See the base class."""
        return _Processor(input_base_uri, splits, range_config)
