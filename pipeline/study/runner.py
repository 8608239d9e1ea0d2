"""Runs the members of a study, each once: what has ended well is not run again."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

from pipeline import presets
from pipeline.config import Config, ConfigError, assign, digest, to_dict
from pipeline.paths import Paths
from pipeline.study import member
from pipeline.study.definitions import Member, Result, Study

# Members are judged by the report: whatever comes out is pushed, into the member's own folder.
_NO_GATE = ("evaluate.max_top1_error=0.999", "evaluate.max_top5_error=0.999", "evaluate.max_top1_increase=1")
# Fields that do not change what a run computes.
_ELSEWHERE = ("name", "preset", "root", "cache", "serve", "beam")


@dataclasses.dataclass(frozen=True)
class Job:
    """One member with one seed.

    Attributes:
      member: net.
      config: of its run.
      folder: its own, named after what the run computes, so that studies share members.
    """

    member: Member
    config: Config
    folder: str

    @property
    def result(self) -> Result | None:
        """What came out; None until the run has ended well."""
        return member.read(self.folder)


def jobs(study: Study, settings: Sequence[str], seeds: Iterable[int], labels: Sequence[str]) -> list[Job]:
    """The runs of a study, in its order.

    Args:
      study: of pipeline.study.definitions.
      settings: `section.field=value` assignments for all members, after the study's and the member's own.
      seeds: of the trainings.
      labels: of the members to run; empty is all.

    Raises:
      ConfigError: a setting that cannot be. ValueError: a label that the study does not have.
    """
    known = [one.label for one in study.members]
    for label in labels:
        if label not in known:
            raise ValueError(f"--members {label}: {study.name} has {', '.join(known)}.")
    base = dataclasses.replace(presets.get(study.preset), name=f"study-{study.preset}")
    made = []
    for one in study.members:
        if labels and one.label not in labels:
            continue
        for seed in seeds:
            config = assign(
                base, [*_NO_GATE, *study.settings, *one.settings, *settings, f"train.seed={seed}"]
            )
            tree = {key: value for key, value in to_dict(config).items() if key not in _ELSEWHERE}
            slug = re.sub(r"\W+", "-", one.label.lower())
            folder = os.path.join(Paths(config).home, "members", f"{slug}-seed{seed}-{digest(tree)[:6]}")
            config = assign(config, [f"serve.directory={os.path.join(folder, 'model')}"])
            config.check()
            if config.model.ensemble or not config.train.epochs:
                raise ConfigError(
                    "A study trains its nets: set model.ensemble= and train.epochs to 1 or more."
                )
            made.append(Job(one, config, folder))
    return made


def run(todo: Sequence[Job], devices: Sequence[str], say: Callable[[str], None]) -> list[Job]:
    """Runs the jobs that have no result yet; returns those that failed.

    Args:
      todo: in this order.
      devices: values of CUDA_VISIBLE_DEVICES, one run at a time on each. Empty runs one after the other on
        all devices there are, and shows each run as it goes.
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

    def work(job: Job) -> bool:
        device = free.get()
        try:
            return _run_one(job, say, device)
        finally:
            free.put(device)

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        ended = list(pool.map(work, open_jobs))
    return [job for job, good in zip(open_jobs, ended, strict=True) if not good]


def _run_one(job: Job, say: Callable[[str], None], device: str | None = None) -> bool:
    """One run in a process of its own; whether it ended well."""
    name = f"{job.member.label}, seed {job.config.train.seed}"
    environment, config = dict(os.environ), job.config
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
        # One pipeline is run by one process at a time: each device has its own, with its own ingestion.
        config = dataclasses.replace(config, name=f"{config.name}-{device}")
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
    errors = ", ".join(f"{protocol} {top1:.2%}" for protocol, (top1, _) in sorted(result.errors.items()))
    say(f"{name}: top-1 error {errors}")
    return True
