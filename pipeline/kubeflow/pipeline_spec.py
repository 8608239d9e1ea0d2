"""The pipeline in Kubeflow's language: TFX's compiler, then what the open-source back end needs.

That back end takes schema 2.1.0 alone, has no resolvers and runs no driver hooks; the graph needs
neither.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import yaml

from pipeline.config.settings import Config
from pipeline.kubeflow import check

# Every step's command; TFX's executor runs in it.
COMMAND = ("python", "-m", "pipeline.kubeflow.node_launcher")
# Their results depend on what is outside of the run: new data in the source, what is pushed
# already.
UNCACHED = ("ExampleGen", "Baseline", "Pusher")
_YEAR = 365 * 24 * 3600


def specification(config: Config) -> dict[str, Any]:
    """The graph as a PipelineSpec 2.1.0, JSON form.

    Raises:
      ConfigError, SourceError: of `create_pipeline`.
    """
    # Seconds to import: only now, when the configuration is known to be right.
    from tfx import v1 as tfx

    from pipeline.pipeline import create_pipeline

    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=config.kubeflow.image,
            default_commands=list(COMMAND),
            use_pipeline_spec_2_1=True,
        )
    )
    job = runner.run(create_pipeline(config), write_out=False)
    spec = job["pipelineSpec"]
    spec["defaultPipelineRoot"] = job["runtimeConfig"]["gcsOutputDirectory"]
    needs = check.resources(config)
    for name, task in spec["root"]["dag"]["tasks"].items():
        container = _container(spec, task)
        resources = _resources(needs[name], config.kubeflow.accelerator)
        if resources:
            container["resources"] = resources
        cached = config.cache and name not in (*UNCACHED, *config.no_cache)
        task["cachingOptions"] = {"enableCache": cached}
        policy = _retries(config)
        if policy:
            task["retryPolicy"] = policy
    return spec


def text(spec: dict[str, Any]) -> str:
    """The file that Kubeflow takes; equal specifications are equal texts."""
    return yaml.safe_dump(spec, sort_keys=True)


def digest(*parts: str) -> str:
    """Names a content: 12 hexadecimal digits."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _container(spec: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
    return spec["deploymentSpec"]["executors"][label]["container"]


def _resources(needs: check.Resources, accelerator: str) -> dict[str, Any]:
    """Limits, which Kubernetes takes for the requests as well.

    The fields that begin with `resource` are what the back end reads; older releases know the
    others alone.
    """
    found: dict[str, Any] = {}
    if needs.cpu:
        found |= {"resourceCpuLimit": needs.cpu, "cpuLimit": _number(needs.cpu)}
    if needs.memory:
        found |= {"resourceMemoryLimit": needs.memory, "memoryLimit": _number(needs.memory) / 1e9}
    if int(needs.gpu or 0):
        found["accelerator"] = {
            "resourceType": accelerator,
            "resourceCount": needs.gpu,
            "type": accelerator,
            "count": needs.gpu,
        }
    return found


def _number(quantity: str) -> float:
    """The value of a quantity of Kubernetes: 500m is 0.5, 64G is 64e9."""
    units = {"m": 1e-3, **{unit: 1000 ** (i + 1) for i, unit in enumerate("kMGTPE")}}
    units |= {f"{unit}i": 1024 ** (i + 1) for i, unit in enumerate("KMGTPE")}
    digits = quantity.rstrip("mkKMGTPEi")
    return float(digits) * units.get(quantity[len(digits) :], 1)


def _retries(config: Config) -> dict[str, Any]:
    """How a failed step is tried again.

    Argo counts `backoffMaxDuration` from the start of the first try and stops the step then: it is
    the time limit of all tries, and must not be left out, as the back end would take 0 for it.
    """
    schedule = config.schedule
    if not schedule.retries and not schedule.timeout_hours:
        return {}
    wait = math.ceil(60 * schedule.retry_minutes)
    limit = (
        math.ceil(3600 * schedule.timeout_hours) * (schedule.retries + 1) + wait * schedule.retries
    )
    return {
        "maxRetryCount": schedule.retries,
        "backoffDuration": f"{wait}s",
        "backoffFactor": 1.0,
        "backoffMaxDuration": f"{limit if schedule.timeout_hours else _YEAR}s",
    }
