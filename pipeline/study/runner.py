"""Runs the members of a study, each once: what has ended well is not run again."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pipeline.config import presets, validity
from pipeline.config.options import assign
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError, digest, to_dict
from pipeline.study import member
from pipeline.study.definitions import Member, Result, Study

# Members are judged by the report: whatever comes out is pushed, into the member's own folder.
_NO_GATE = (
    "evaluate.max_top1_error=1",
    "evaluate.max_top5_error=1",
    "evaluate.max_top1_increase=1",
    "serve.validator=none",
)
# What a run computes, less the fields of `train` that say on what.
_COMPUTED = ("data", "transform", "model", "train", "tune", "evaluate")
_HARDWARE = ("strategy", "cpu_devices", "tpu", "checkpoint_seconds", "checkpoint_dir")
# What members and seeds are made of.
_OURS = (
    "train.seed",
    "model.depth",
    "model.residual",
    "model.shortcut",
    "serve.directory",
    "train.checkpoint_dir",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One member with one seed; `folder` is named after what the run computes: studies share it."""

    member: Member
    config: Config
    folder: str

    @property
    def result(self) -> Result | None:
        """What came out; None until the run has ended well."""
        return member.read(self.folder)


def jobs(
    study: Study, settings: Sequence[str], seeds: Iterable[int], labels: Sequence[str]
) -> list[Job]:
    """The runs of a study, in its order.

    Args:
      study: of pipeline.study.definitions.
      settings: `section.field=value` for all members, after the study's and the member's own.
      seeds: of the trainings.
      labels: of the members to run; empty is all.

    Raises:
      ConfigError: a setting or a label that cannot be.
    """
    known = [one.label for one in study.members]
    for label in labels:
        if label not in known:
            raise ConfigError(
                f"--members {label}: {study.name} has {', '.join(known)}; put a label with a blank"
                " in quotes."
            )
    for setting in settings:
        if (key := setting.partition("=")[0].strip()) in _OURS:
            raise ConfigError(
                f"--set {key}: the study sets this itself; choose with --members and --seeds."
            )
    base = dataclasses.replace(presets.get(study.preset), name=f"study-{study.preset}")
    made = []
    for one in study.members:
        if labels and one.label not in labels:
            continue
        for seed in dict.fromkeys(seeds):
            config = assign(
                base, [*_NO_GATE, *study.settings, *one.settings, *settings, f"train.seed={seed}"]
            )
            slug = re.sub(r"\W+", "-", one.label.lower())
            name = f"{slug}-seed{seed}-{digest(_computed(config))[:6]}"
            folder = os.path.join(Paths(config).home, "members", name)
            places = [
                f"serve.directory={folder}/model",
                f"train.checkpoint_dir={folder}/checkpoints",
            ]
            config = assign(config, places)
            validity.check(config)
            if config.model.ensemble or config.train.init_from:
                raise ConfigError(
                    "A study trains its nets from scratch: set model.ensemble= and"
                    " train.init_from=."
                )
            made.append(Job(one, config, folder))
    return made


def _computed(config: Config) -> dict[str, Any]:
    """The settings that make a run another run, less defaults: later versions may add settings."""
    tree, usual = to_dict(config), to_dict(Config())
    for name in _HARDWARE:
        del tree["train"][name]
    if config.data.source:
        tree["data"]["source"] = os.path.abspath(os.path.expanduser(config.data.source))
    return {
        section: {
            key: value for key, value in tree[section].items() if value != usual[section][key]
        }
        for section in _COMPUTED
    }


def run(todo: Sequence[Job], devices: Sequence[str], say: Callable[[str], None]) -> list[Job]:
    """Runs the jobs that have no result yet, in order; returns those that failed.

    Args:
      devices: values of CUDA_VISIBLE_DEVICES, one run at a time on each. Empty runs one after the
        other on all devices there are, and shows each run as it goes.
      say: told what happens.
    """
    open_jobs = [job for job in todo if job.result is None]
    if len(open_jobs) < len(todo):
        say(f"{len(todo) - len(open_jobs)} of {len(todo)} runs were finished before")
    if not devices:
        return [job for job in open_jobs if not _run_one(job, say)]
    free: queue.Queue[str] = queue.Queue()
    for device in devices:
        free.put(device)
    # One pipeline is run by one process at a time: each device has its own, with its own ingestion.
    pipelines: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)

    def work(job: Job) -> bool:
        device = free.get()
        # A run goes on in the pipeline that has its data, whichever device is free.
        name = member.begun(job.folder) or f"{job.config.name}-{device}"
        try:
            with pipelines[name]:
                return _run_one(job, say, device, name)
        finally:
            free.put(device)

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        ended = list(pool.map(work, open_jobs))
    return [job for job, good in zip(open_jobs, ended, strict=True) if not good]


def _run_one(
    job: Job, say: Callable[[str], None], device: str | None = None, pipeline: str | None = None
) -> bool:
    """One run in a process of its own; whether it ended well."""
    name = f"{job.member.label}, seed {job.config.train.seed}"
    pipeline = pipeline or member.begun(job.folder) or job.config.name
    environment, config = dict(os.environ), dataclasses.replace(job.config, name=pipeline)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    command = [sys.executable, "-m", "pipeline.study.member"]
    command.append(member.write_request(job.folder, job.member.label, config))
    say(f"{name}: starts" + (f" on device {device}" if device is not None else ""))
    log_path = os.path.join(job.folder, "run.log")
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(log_path, "w")) if device is not None else None
        status = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
    result = job.result
    if status or result is None:
        where = f": see {os.path.relpath(log_path)}" if device is not None else ""
        say(f"{name}: failed (status {status}){where}")
        return False
    errors = ", ".join(
        f"{name} {found['top1']:.2%}" for name, found in sorted(result.errors.items())
    )
    say(f"{name}: top-1 error {errors}")
    return True
