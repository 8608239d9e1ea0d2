"""TFX's driver for several spans, and for files by their names."""

from __future__ import annotations

import os
from typing import Any

from tfx.components.example_gen import driver, input_processor

from components.example_gen import properties


class _Processor(input_processor.FileBasedInputProcessor):
    """Looks at the names of files as well, in a source without spans."""

    def __init__(self, base: str, splits: Any, range_config: Any) -> None:
        super().__init__(base, splits, range_config)
        self._patterns = [os.path.join(base, split.pattern) for split in splits]

    def resolve_span_and_version(self) -> tuple[int, int | None]:
        return 0, None

    def get_input_fingerprint(self, span: int, version: int | None) -> str | None:
        return "".join(map(properties.fingerprint, self._patterns))


class Driver(driver.FileBasedDriver):
    """FileBasedDriver with our fingerprint, which takes several spans for one input."""

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
        self, splits: Any, range_config: Any = None, input_base_uri: Any = None
    ) -> input_processor.InputProcessor:
        """See the base class."""
        return _Processor(input_base_uri, splits, range_config)
