"""The execution properties of ImageExampleGen: made with the component, completed by its driver.

The driver takes several spans for one input, and its fingerprint covers the names of files. Where
no driver runs (Kubeflow Pipelines), the executor completes the properties itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

from tfx.components.example_gen import driver, utils

from components import files
from components.example_gen import source
from components.example_gen.errors import SourceError
from components.example_gen.marks import Span
from components.example_gen.settings import Data
from components.example_gen.sources import kinds

# The driver's property beside TFX's own: the spans that were found, as JSON.
_WINDOW = "window"


def data(exec_properties: dict[str, Any]) -> Data:
    """The settings of the data, as far as they change what is written."""
    return Data(**json.loads(exec_properties["settings"])["data"])


def parts(exec_properties: dict[str, Any]) -> tuple[source.Part, ...]:
    """What is read: the spans that were found, else the newest that are there, else the whole
    source.

    Raises:
      SourceError: as `source.parts`.
    """
    wanted, settings = data(exec_properties), json.loads(exec_properties["settings"])
    if "where" in settings:
        return (source.Part(None, kinds.of(wanted.kind)(**settings["where"])),)
    found = json.loads(exec_properties.get(_WINDOW) or "[]")
    chosen = [Span(number, version, tuple(map(tuple, texts))) for number, version, texts in found]
    return source.parts(wanted, chosen)


def resolved(exec_properties: dict[str, Any]) -> dict[str, Any]:
    """Adds the newest spans and the fingerprint of exactly their files, unless they are there.

    Raises:
      SourceError: as `source.parts`.
    """
    if exec_properties.get(utils.FINGERPRINT_PROPERTY_NAME):
        return exec_properties
    found = parts(exec_properties)
    spans = [part.span for part in found if part.span]
    return {
        **exec_properties,
        utils.SPAN_PROPERTY_NAME: spans[-1].number if spans else 0,
        utils.VERSION_PROPERTY_NAME: spans[-1].version if spans else None,
        utils.FINGERPRINT_PROPERTY_NAME: _fingerprint(found),
        _WINDOW: json.dumps([dataclasses.astuple(span) for span in spans]),
    }


class Driver(driver.Driver):
    """Completes the properties before the cache is asked."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        """See the base class.

        Raises:
          SourceError: a span is missing or not whole.
        """
        return resolved(exec_properties)


def _fingerprint(found: tuple[source.Part, ...]) -> str:
    """Changes with the name of a span and with the names, sizes and times of its files.

    TFX's has no names: an image that is moved to another class would not be noticed.

    Raises:
      SourceError: they are remote, and a name is not UTF-8: no such file can be read there.
    """
    digest = hashlib.sha256()
    for span, where in found:
        digest.update(json.dumps(span and dataclasses.astuple(span)).encode())
        splits = [os.path.join(where.base, name) for name in (where.train, where.eval) if name]
        for pattern in (*splits, *where.beside()):
            try:
                paths = files.glob(pattern)
            except UnicodeDecodeError:
                raise SourceError(
                    f"A file of {pattern} has a name that is not UTF-8: rename it."
                ) from None
            for path in paths:
                digest.update(os.fsencode(f"{path} {files.state(path)}\n"))
    return digest.hexdigest()
