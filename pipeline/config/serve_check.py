"""What can be wrong with `serve` before anything runs. No TensorFlow: Airflow checks it too."""

from __future__ import annotations

import ipaddress
import re

from pipeline.config.settings import ConfigError, Serve

_NAME = re.compile(r"(?!\.{1,2}$)[^/:\x00-\x1f]+")
_IMAGE = re.compile(r"[\w./:-]+:(?!latest\b)[\w][\w.-]*(@sha256:[0-9a-f]{64})?")


def check(serve: Serve, artifacts: str = "") -> None:
    """Raises ConfigError for settings that no server could start with.

    Without `serve.directory`, models lie beside `artifacts`.
    """
    if not _NAME.fullmatch(serve.model_name):
        raise ConfigError(
            f"serve.model_name={serve.model_name}: must be a name without / and :, and not . or .."
        )
    if serve.host != "localhost":
        try:
            ipaddress.ip_address(serve.host)
        except ValueError:
            raise ConfigError(
                f"serve.host={serve.host}: must be an address of this machine, such as 127.0.0.1 or"
                " 0.0.0.0."
            ) from None
    if serve.rest_port == serve.grpc_port:
        raise ConfigError(
            f"serve.grpc_port={serve.grpc_port}: serve.rest_port is the same; name another."
        )
    if serve.validator not in ("embedded", "none") and not _IMAGE.fullmatch(serve.validator):
        raise ConfigError(
            f"serve.validator={serve.validator}: must be embedded, none, or an image with its"
            " version, such as tensorflow/serving:2.20.0."
        )
    if serve.max_replicas < serve.min_replicas:
        least = f"{serve.min_replicas} (serve.min_replicas)"
        raise ConfigError(f"serve.max_replicas={serve.max_replicas}: must be {least} or more.")
    if not re.fullmatch(r"[1-9]\d*[MG]i", serve.memory):
        raise ConfigError(
            f"serve.memory={serve.memory}: must be a number with Mi or Gi, such as 4Gi."
        )
    if not _IMAGE.fullmatch(serve.image):
        raise ConfigError(
            f"serve.image={serve.image}: must name a version, as tensorflow/serving:2.20.0 does;"
            " not latest."
        )
    _check_canary(serve, serve.directory or artifacts)


def _check_canary(serve: Serve, place: str) -> None:
    if labels(serve) and serve.canary_hours:
        raise ConfigError(
            f"serve.labels={','.join(serve.labels)}: with serve.canary_hours the pushes set the"
            " labels; leave one of the two out."
        )
    if serve.canary_hours and "://" in place:
        raise ConfigError(
            f"serve.canary_hours={serve.canary_hours:g}: the servers' file of models cannot lie in"
            f" {place}; mount the bucket and name its folder with --set serve.directory=FOLDER."
        )


def labels(serve: Serve) -> dict[str, int]:
    """Version by label; raises ConfigError where an entry is wrong or names a label twice."""
    found: dict[str, int] = {}
    for entry in serve.labels:
        name, _, version = entry.partition("=")
        if not _NAME.fullmatch(name) or not re.fullmatch(r"\d{1,18}", version) or name in found:
            raise ConfigError(
                f"serve.labels={','.join(serve.labels)}: must be a list of LABEL=VERSION with a"
                " label once each, such as stable=1764000000,canary=1764086400."
            )
        found[name] = int(version)
    return found
