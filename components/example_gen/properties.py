"""The execution properties of ImageExampleGen: made with the component, completed by its driver.

Where no driver runs (Kubeflow Pipelines), the executor completes them itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

from google.protobuf import any_pb2, wrappers_pb2
from tfx.components.example_gen import utils
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils

from components import files
from components.example_gen import source
from components.example_gen.errors import SourceError
from components.example_gen.marks import Span
from components.example_gen.settings import Data
from components.example_gen.sources import kinds

# The driver's property beside TFX's own: the spans that were found, as JSON.
_WINDOW = "window"


def pack(settings: dict[str, Any]) -> example_gen_pb2.CustomConfig:
    """Settings of our own, as the `custom_config` property."""
    custom = example_gen_pb2.CustomConfig(custom_config=any_pb2.Any())
    custom.custom_config.Pack(wrappers_pb2.StringValue(value=json.dumps(settings, sort_keys=True)))
    return custom


def unpack(exec_properties: dict[str, Any]) -> dict[str, Any]:
    """The settings that `pack` was given."""
    custom, text = example_gen_pb2.CustomConfig(), wrappers_pb2.StringValue()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], custom)
    custom.custom_config.Unpack(text)
    return json.loads(text.value)


def has_spans(exec_properties: dict[str, Any]) -> bool:
    """Whether the source is one that grows."""
    return "where" not in unpack(exec_properties)


def data(exec_properties: dict[str, Any]) -> Data:
    """The settings of the data, as far as they change what is written."""
    return Data(**unpack(exec_properties)["data"])


def parts(exec_properties: dict[str, Any]) -> tuple[source.Part, ...]:
    """What is read: the spans that were found, else the newest that are there, else the whole
    source.

    Raises:
      SourceError: as `source.parts`.
    """
    wanted = data(exec_properties)
    if not has_spans(exec_properties):
        where = kinds.of(wanted.kind)(**unpack(exec_properties)["where"])
        return (source.Part(None, where),)
    found = json.loads(exec_properties.get(_WINDOW) or "[]")
    chosen = [Span(number, version, tuple(map(tuple, texts))) for number, version, texts in found]
    return source.parts(dataclasses.replace(wanted, spans=_rolling(exec_properties)), chosen)


def resolve(exec_properties: dict[str, Any]) -> dict[str, Any]:
    """Adds the newest spans, their range, and the fingerprint of exactly their files.

    Raises:
      SourceError: as `source.parts`.
    """
    found = parts({**exec_properties, _WINDOW: ""})
    spans = [part.span for part in found if part.span]
    between = range_config_pb2.StaticRange(
        start_span_number=spans[0].number, end_span_number=spans[-1].number
    )
    return {
        **exec_properties,
        standard_component_specs.RANGE_CONFIG_KEY: proto_utils.proto_to_json(
            range_config_pb2.RangeConfig(static_range=between)
        ),
        utils.SPAN_PROPERTY_NAME: spans[-1].number,
        utils.VERSION_PROPERTY_NAME: spans[-1].version,
        utils.FINGERPRINT_PROPERTY_NAME: _fingerprint(found),
        _WINDOW: json.dumps([dataclasses.astuple(span) for span in spans]),
    }


def resolved(exec_properties: dict[str, Any]) -> dict[str, Any]:
    """The properties as the driver leaves them, whether or not it has run."""
    if not has_spans(exec_properties) or exec_properties.get(_WINDOW):
        return exec_properties
    return resolve(exec_properties)


def _rolling(exec_properties: dict[str, Any]) -> int:
    config = range_config_pb2.RangeConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.RANGE_CONFIG_KEY], config)
    return config.rolling_range.num_spans


def _fingerprint(found: tuple[source.Part, ...]) -> str:
    """Changes with the name of a span and with the names, sizes and times of its files."""
    digest = hashlib.sha256()
    for span, where in found:
        digest.update(json.dumps(span and dataclasses.astuple(span)).encode())
        splits = [pattern for pattern in (where.train, where.eval) if pattern]
        for place in (*(os.path.join(where.base, pattern) for pattern in splits), *where.beside()):
            digest.update(fingerprint(place).encode())
    return digest.hexdigest()


def fingerprint(pattern: str) -> str:
    """Changes with the names, sizes and times of the files that match.

    TFX's has no names: an image that is moved to another class would not be noticed.

    Raises:
      SourceError: they are remote, and a name is not UTF-8: no such file can be read there.
    """
    digest = hashlib.sha256()
    try:
        found = files.glob(pattern)
    except UnicodeDecodeError:
        raise SourceError(f"A file of {pattern} has a name that is not UTF-8: rename it.") from None
    for path in found:
        digest.update(os.fsencode(f"{path} {files.state(path)}\n"))
    return digest.hexdigest()
