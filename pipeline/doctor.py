"""Looks at this machine before a run does: what is missing, what is in the way, and how to mend it.

python -m pipeline.doctor [--preset=NAME] [--set section.field=value ...]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.config.settings import Config

_PROJECT = Path(__file__).resolve().parents[1]
_MARKS = {"good": "✓", "warning": "!", "bad": "✗"}
# Bytes: TensorFlow, TFX and a served model at the same time.
_LEAST_MEMORY = 3e9
_SHOWN = 3
# In a process of its own: TensorFlow may end the one that imports it.
_DEVICES = (
    "import json, tensorflow as tf;"
    "print(json.dumps([one.name for one in tf.config.list_physical_devices('GPU')]))"
)


class Finding(NamedTuple):
    """What was looked at, what was found, and how to mend it.

    Attributes:
      state: good, warning or bad; a run fails where something is bad.
      about: a word.
      found: a sentence's worth.
      mend: what to do, "" where nothing is to be done.
    """

    state: str
    about: str
    found: str
    mend: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each finding; returns 1 where a run would fail, otherwise 0."""
    bad = False
    for finding in findings(_settings(argv)):
        print(f"{_MARKS[finding.state]} {finding.about:<14}{finding.found}", flush=True)
        if finding.mend:
            print(f"{'':16}{finding.mend}")
        bad = bad or finding.state == "bad"
    return int(bad)


def _settings(argv: Sequence[str] | None) -> Config | Finding:
    """The configuration that the options of a run name, or why there is none."""
    try:
        # Here and below: the libraries that the rest of the project needs may be what is missing.
        from pipeline.config import options
        from pipeline.config.settings import ConfigError
    except ImportError as error:
        return Finding("bad", "settings", f"they cannot be read: {error}", "Run `make env`.")
    parser = argparse.ArgumentParser(
        prog="doctor", description="Looks at this machine and says what a run would miss."
    )
    options.add(parser)
    try:
        return options.resolve(parser.parse_args(argv))
    except ConfigError as error:
        return Finding("bad", "settings", str(error))


def findings(settings: Config | Finding) -> Iterator[Finding]:
    """What there is to say of this machine, in the order in which it has to be mended."""
    yield python()
    yield environment(Path(sys.prefix))
    yield packages(_PROJECT / "requirements")
    yield processor(_cpu_flags())
    yield memory(_free_memory())
    yield graphics(_driver_gpus(), _tensorflow_gpus())
    if isinstance(settings, Finding):
        yield settings
        return
    yield data(settings)
    yield from weights(settings)
    yield from disk(settings)
    yield from ports(settings)


def python() -> Finding:
    """The interpreter: the product is tested with Python 3.11."""
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"{version}, {sys.executable}"
    if sys.version_info[:2] == (3, 11):
        return Finding("good", "Python", found)
    mend = "Run `make env`, then .venv/bin/python -m pipeline.doctor."
    return Finding("bad", "Python", found, mend)


def environment(prefix: Path) -> Finding:
    """The virtual environment at `prefix`: complete, and where it was made."""
    about = "environment"
    if not (prefix / "pyvenv.cfg").is_file():
        return Finding("warning", about, f"{prefix} is no virtual environment", "Run `make env`.")
    command = prefix / "bin" / "tfx"
    if not command.is_file():
        return Finding("bad", about, f"{command} is missing", "Run `make env` once more.")
    first = command.read_bytes().splitlines()[0].decode(errors="replace").removeprefix("#!")
    if not os.path.exists(first):
        found = f"{prefix} was made elsewhere: its commands call {first}"
        return Finding("bad", about, found, f"Remove it (rm -r {prefix}) and run `make env`.")
    if prefix.parent == _PROJECT and not list(prefix.glob(".installed-*")):
        return Finding("bad", about, f"{prefix} is half made", "Run `make env` once more.")
    return Finding("good", about, str(prefix))


def packages(locks: Path) -> Finding:
    """What is installed, against the lock that differs least from it."""
    about = "packages"
    files = [locks / f"{name}.lock" for name in ("base", "dev", "gpu", "kubeflow")]
    wanted = [_pins(file.read_text()) for file in files if file.is_file()]
    if not wanted:
        return Finding("warning", about, f"{locks} has no locks")
    installed = {_plain(d.name): d.version for d in importlib.metadata.distributions()}
    differ = min((_differences(pins, installed) for pins in wanted), key=len)
    if differ:
        shown = ", ".join(differ[:_SHOWN]) + ", ..." * (len(differ) > _SHOWN)
        state = "bad" if any("is missing" in one for one in differ) else "warning"
        found = f"{len(differ)} differ from the lock: {shown}"
        return Finding(state, about, found, "`make env` installs what is locked.")
    return Finding("good", about, f"as locked: TensorFlow {installed['tensorflow']}")


def _pins(lock: str) -> dict[str, str]:
    return {
        _plain(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.M)
    }


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _differences(pins: dict[str, str], installed: dict[str, str]) -> list[str]:
    return [
        f"{name} {installed.get(name, 'is missing')} instead of {version}"
        for name, version in pins.items()
        if installed.get(name) != version
    ]


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return set(found[1].split()) if found else set()


def processor(flags: set[str]) -> Finding:
    """Cores, and the instructions that TensorFlow's wheel cannot do without."""
    found = f"{len(os.sched_getaffinity(0))} cores"
    if "avx" not in flags:
        mend = "TensorFlow ends at its import here: use another machine."
        return Finding("bad", "processor", f"{found}, without AVX", mend)
    fast = [name for name in ("avx2", "avx512f", "amx_bf16") if name in flags]
    return Finding("good", "processor", f"{found}, {' '.join(['avx', *fast])}")


def _free_memory() -> float:
    """Bytes that can be had without swapping."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return 1024 * float(found[1]) if found else float("inf")


def memory(available: float) -> Finding:
    """Free memory, in bytes."""
    found = f"{available / 1e9:.1f} GB free"
    if available < _LEAST_MEMORY:
        mend = f"A run needs {_LEAST_MEMORY / 1e9:.0f} GB and more: end what takes memory."
        return Finding("bad", "memory", found, mend)
    return Finding("good", "memory", found)


def graphics(there: list[str], seen: list[str] | str) -> Finding:
    """GPUs of the driver against those of TensorFlow, or why that cannot be imported."""
    if isinstance(seen, str):
        return Finding("bad", "TensorFlow", seen, "`make env` installs what is locked.")
    if len(seen) < len(there):
        found = f"TensorFlow uses {len(seen)} of the driver's {len(there)}: {'; '.join(there)}"
        mend = "`make env SET=gpu` installs CUDA for it; CUDA_VISIBLE_DEVICES hides GPUs."
        return Finding("warning", "GPU", found, mend)
    if seen:
        return Finding("good", "GPU", "; ".join(there or seen))
    return Finding("good", "GPU", "none; the processor trains (small nets, few images)")


def _driver_gpus() -> list[str]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _tensorflow_gpus() -> list[str] | str:
    """Devices, or why TensorFlow cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", _DEVICES],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return f"it cannot be imported: {last}"
    return json.loads(done.stdout.splitlines()[-1])


def data(config: Config) -> Finding:
    """The source, as ingestion would read it."""
    from components.example_gen import source
    from components.example_gen.errors import SourceError
    from components.example_gen.sources import kinds

    if kinds.of(config.data.kind).embedded:
        return Finding("good", "data", f"{config.data.kind}: a package brings them")
    try:
        parts = source.check(config.data)
    except SourceError as error:
        return Finding("bad", "data", str(error))
    count = len(source.classes_of(parts))
    return Finding("good", "data", f"{config.data.source}: {count:,} classes")


def weights(config: Config) -> Iterator[Finding]:
    """The file of a named start: whether it is here already."""
    from models.weights.named import catalogue, download

    start = config.train.init_from
    if not catalogue.is_name(start):
        return
    entry = catalogue.find(start)
    path = download.place(entry)
    if os.path.isfile(path):
        yield Finding("good", "weights", f"{start}: {path}")
        return
    found = f"{start} is not here yet: a run downloads {entry.size:g} MiB from {entry.address}"
    mend = f"Without a network, put that file there as {path}: {entry.promise}."
    yield Finding("warning", "weights", found, mend)


def disk(config: Config) -> Iterator[Finding]:
    """Every disk that a run writes to."""
    from pipeline.config import space

    needed = space.needed(config)
    for place, free in space.disks(config).items():
        found = f"{place}: {free / 1e9:,.1f} GB free, a run writes about {needed / 1e9:,.2f} GB"
        if free < needed:
            mend = "Make room, or name another place: root=, artifacts= or TMPDIR."
            yield Finding("bad", "disk", found, mend)
        else:
            yield Finding("good", "disk", found)


def ports(config: Config) -> Iterator[Finding]:
    """Ports of the server that the closing summary starts."""
    serve = config.serve
    for name, port in (("serve.rest_port", serve.rest_port), ("serve.grpc_port", serve.grpc_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((serve.host, port))
            except OSError as error:
                found = f"{serve.host}:{port} ({name}): {error.strerror}"
                mend = f"Choose another with --set {name}=PORT, or end what listens there."
                yield Finding("warning", "port", found, mend)
                continue
        yield Finding("good", "port", f"{serve.host}:{port} is free ({name})")


if __name__ == "__main__":
    sys.exit(main())
