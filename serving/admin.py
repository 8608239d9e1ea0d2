"""Moves serving to another version, safely: `python -m serving.admin rollback`, pin, unpin, label,
promote.

The file of --model_config_file is what serves; it is changed at one stroke. A server that is named
with --server takes the change at once, over TensorFlow Serving's own gRPC call: the wanted version
is loaded and warmed up before the other one goes. If it cannot be served, file and server are what
they were. Without --server, servers follow the file by --model_config_file_poll_wait_seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc

from serving import rollout
from serving.rollout import RolloutError
from serving.server import textproto
from serving.server.server_config import ModelSettings, SettingsError

_Models = tuple[ModelSettings, ...]
_SECONDS = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Changes what serves; returns 1 when that cannot be, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        with locked(options.model_config_file):
            for line in _run(options):
                print(line)
    except (RolloutError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> Iterator[str]:
    before = _read(options)
    index, model = _chosen(before, options.model_name)
    versions = versions_in(model.base_path)
    if options.command == "status":
        yield from _described(model, versions)
        return
    change: dict[str, Callable[[], ModelSettings]] = {
        "rollback": lambda: rollout.rolled_back(model, versions),
        "pin": lambda: rollout.pinned(model, options.version, versions),
        "unpin": lambda: rollout.following(model),
        "label": lambda: rollout.labelled(model, options.label, options.version, versions),
        "promote": lambda: rollout.promoted(model, 3600 * options.after_hours, time.time()),
    }
    changed = change[options.command]()
    after = (*before[:index], changed, *before[index + 1 :])
    _apply(options, before, after)
    yield f"{model.name}: {_short(model, versions)} -> {_short(changed, versions)}"
    if not options.server:
        yield (
            f"Servers of {options.model_config_file} follow it; --server HOST:PORT tells one at"
            " once."
        )


def _apply(options: argparse.Namespace, before: _Models, after: _Models) -> None:
    """Writes the file and tells the server; both are as before when the server refuses."""
    path: Path = options.model_config_file
    old = path.read_text() if path.exists() else None
    write(path, textproto.models_text(after))
    if not options.server:
        return
    try:
        reload(options.server, after)
    except grpc.RpcError as error:
        if old is None:
            path.unlink()
        else:
            write(path, old)
        # A server that had begun with the change goes back as well.
        with contextlib.suppress(grpc.RpcError):
            reload(options.server, before)
        said = error.details() or error.code().name
        raise RolloutError(
            f"{options.server} refuses the change, nothing has changed: {said}"
        ) from error


def reload(server: str, models: _Models) -> None:
    """Tells a server at HOST:PORT (gRPC) which models to serve; returns when it does.

    Raises:
      grpc.RpcError: it refuses, or does not answer.
    """
    from tensorflow_serving.apis import (
        model_management_pb2,
        model_service_pb2_grpc,
    )  # costs a second

    request = model_management_pb2.ReloadConfigRequest(config=textproto.config(models))
    with grpc.insecure_channel(server) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        stub.HandleReloadConfigRequest(request, timeout=_SECONDS)


def versions_in(folder: Path) -> list[int]:
    """Whole versions in a folder of them, newest first."""
    names = [entry.name for entry in folder.iterdir() if (entry / "saved_model.pb").is_file()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def write(path: Path, text: str) -> None:
    """Puts a text in the place of a file at one stroke."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(options: argparse.Namespace) -> _Models:
    if options.model_config_file.exists():
        return textproto.read_models(options.model_config_file)
    if not options.model_base_path:
        raise SettingsError(
            f"{options.model_config_file} does not exist: name the server's --model_config_file, or"
            " --model_base_path FOLDER to begin one."
        )
    return (ModelSettings(options.model_name or "resnet", options.model_base_path.absolute()),)


def _chosen(models: _Models, name: str) -> tuple[int, ModelSettings]:
    names = [model.name for model in models]
    if not name and len(models) == 1:
        name = names[0]
    if name not in names:
        raise RolloutError(f"--model_name {name or '(none)'}: must be one of {', '.join(names)}.")
    model = models[names.index(name)]
    if not model.base_path.is_dir():
        raise RolloutError(f"{model.base_path} of {name} is not a folder of this machine.")
    return names.index(name), model


def _described(model: ModelSettings, versions: Sequence[int]) -> Iterator[str]:
    yield f"{model.name}  {model.base_path}"
    for number in versions:
        labels = ", ".join(name for name, version in model.labels.items() if version == number)
        served = number in _served(model, versions)
        yield (
            f"  {number}  {_pushed(number)}  {'serves' if served else '      '}  {labels}".rstrip()
        )


def _short(model: ModelSettings, versions: Sequence[int]) -> str:
    parts = []
    for number in _served(model, versions):
        labels = [name for name, version in model.labels.items() if version == number]
        parts.append(f"{number} ({', '.join(labels)})" if labels else str(number))
    return ", ".join(parts) or "no version"


def _served(model: ModelSettings, versions: Sequence[int]) -> list[int]:
    if model.versions:
        return sorted(model.versions, reverse=True)
    return list(versions if model.all_versions else versions[: model.num_versions])


def _pushed(number: int) -> str:
    """When a version was pushed, where its number is a time."""
    likely = 1_000_000_000 < number < 10_000_000_000
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(number)) if likely else " " * 16


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One change of a file of models at a time, by a person or by a push.

    Raises:
      SettingsError: its folder cannot be written.
    """
    try:
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise SettingsError(f"{path.parent} cannot be written ({error.strerror}).") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.admin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model_config_file",
        type=Path,
        default=Path("models.config"),
        help="that the servers serve",
    )
    add(
        "--model_base_path",
        type=Path,
        help="folder of versions, to begin a file that does not exist",
    )
    add("--model_name", default="", help="which model; not needed where there is one")
    add(
        "--server", default="", metavar="HOST:PORT", help="gRPC address of a server to tell at once"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="versions, labels, what serves")
    commands.add_parser("rollback", help="end the trial of a canary, else serve the version before")
    commands.add_parser("pin", help="serve exactly this version").add_argument("version", type=int)
    commands.add_parser("unpin", help="follow the newest version again")
    label = commands.add_parser(
        "label", help="give a version a label, and serve it beside the others"
    )
    label.add_argument("label")
    label.add_argument("version", type=int)
    promote = commands.add_parser("promote", help="make the canary stable when its time is over")
    promote.add_argument("--after-hours", type=float, default=24.0, help="length of the trial")
    return parser


if __name__ == "__main__":
    sys.exit(main())
