"""The pipeline in Kubeflow's language: TFX's compiler, then what the open-source back end needs.

That back end takes schema 2.1.0 alone, has no resolvers and runs no driver hooks; the graph needs
neither.
"""

from __future__ import annotations

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
    """The graph as a PipelineSpec 2.1.0, JSON form; raises what `create_pipeline` raises."""
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
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container = spec["deploymentSpec"]["executors"][label]["container"]
        if resources := _resources(needs[name], config.kubeflow.accelerator):
            container["resources"] = resources
        cached = config.cache and name not in (*UNCACHED, *config.no_cache)
        task["cachingOptions"] = {"enableCache": cached}
        if policy := _retries(config):
            task["retryPolicy"] = policy
    return spec


def text(spec: dict[str, Any]) -> str:
    """The file that Kubeflow takes; equal specifications are equal texts."""
    return yaml.safe_dump(spec, sort_keys=True)


def _resources(needs: dict[str, str], accelerator: str) -> dict[str, Any]:
    """Limits, which Kubernetes takes for the requests as well."""
    fields = {"cpu": "resourceCpuLimit", "memory": "resourceMemoryLimit"}
    found: dict[str, Any] = {field: needs[key] for key, field in fields.items() if key in needs}
    if int(needs.get("gpu", 0)):
        found["accelerator"] = {"resourceType": accelerator, "resourceCount": needs["gpu"]}
    return found


def _retries(config: Config) -> dict[str, Any]:
    """How a failed step is tried again.

    Argo counts `backoffMaxDuration` from the start of the first try and stops the step then: it is
    the time limit of all tries, and must not be left out, as the back end would take 0 for it.
    """
    schedule = config.schedule
    if not schedule.retries and not schedule.timeout_hours:
        return {}
    wait, limit = math.ceil(60 * schedule.retry_minutes), _YEAR
    if schedule.timeout_hours:
        one = math.ceil(3600 * schedule.timeout_hours)
        limit = one * (schedule.retries + 1) + wait * schedule.retries
    return {
        "maxRetryCount": schedule.retries,
        "backoffDuration": f"{wait}s",
        "backoffFactor": 1.0,
        "backoffMaxDuration": f"{limit}s",
    }
