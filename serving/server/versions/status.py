"""Versions as TensorFlow Serving's status message."""

from __future__ import annotations

from collections.abc import Iterable

from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

from serving.server.versions.versions import Version


def response(versions: Iterable[Version]) -> GetModelStatusResponse:
    """State and last error of each version."""
    response = GetModelStatusResponse()
    for version in versions:
        entry = response.model_version_status.add(version=version.number, state=version.state.value)
        if version.error:
            entry.status.error_code = version.error.code
            entry.status.error_message = version.error.message
        else:
            entry.status.SetInParent()
    return response
