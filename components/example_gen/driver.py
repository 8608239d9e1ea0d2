"""TFX's driver for several spans, and for files whose names TensorFlow cannot return."""

from __future__ import annotations

import os
from typing import Any

from tfx.components.example_gen import driver, input_processor

from components.example_gen import properties


class _Processor(input_processor.FileBasedInputProcessor):
    """TensorFlow's glob fails on a name that is not UTF-8; Python's does not.

    Such files reach the executor, which quarantines them by name.
    """

    _own = ""

    def resolve_span_and_version(self) -> tuple[int, int | None]:
        try:
            return super().resolve_span_and_version()
        except UnicodeDecodeError:
            paths = [os.path.join(self._input_base_uri, split.pattern) for split in self._splits]
            self._own = "".join(map(properties.own_fingerprint, paths))
            return 0, None

    def get_input_fingerprint(self, span: int, version: int | None) -> str | None:
        return self._own or super().get_input_fingerprint(span, version)


class Driver(driver.FileBasedDriver):
    """FileBasedDriver that goes on where a file name is not UTF-8, and takes several spans for one input."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        """See the base class.

        Raises:
          SourceError: a span is missing or not whole.
        """
        if properties.has_spans(exec_properties):
            return properties.resolve(exec_properties)
        return super().resolve_exec_properties(exec_properties, pipeline_info, component_info)

    def get_input_processor(
        self, splits: Any, range_config: Any = None, input_base_uri: str | None = None
    ) -> input_processor.InputProcessor:
        """See the base class."""
        return _Processor(input_base_uri, splits, range_config)
