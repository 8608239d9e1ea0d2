"""Bringing the compiled pipeline to Kubeflow: one pipeline, a version a specification, one
recurring run.

Names hold digests of what they stand for: what is there by its name is not made again, so that a
deployment can be repeated, and one that was cut off is finished by the next.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.config.settings import Config, ConfigError, digest
from pipeline.kubeflow import check

# Environment variable of a bearer token, for a Kubeflow that asks who is there.
TOKEN = "RESNET_TFX_KUBEFLOW_TOKEN"
# The SDK's name for an installation without users of its own: there objects have no namespace.
_SINGLE_USER = "kubeflow"
_PAGE = 100


def sdk() -> tuple[Any, Any]:
    """The modules kfp and kfp_server_api; raises ConfigError where they are not installed."""
    try:
        import kfp
        import kfp_server_api
    except ImportError as error:
        raise ConfigError("The Kubeflow SDK is not installed: make env SET=kubeflow.") from error
    return kfp, kfp_server_api


def connect(config: Config) -> Any:
    """A client of the API at `kubeflow.host`; raises ConfigError where there is none."""
    kfp, _ = sdk()
    if not config.kubeflow.host:
        raise ConfigError(
            "kubeflow.host is empty: name the address of the API with --set"
            " kubeflow.host=http://localhost:8080."
        )
    # The SDK asks five times and logs a trace each time; the caller has the reason.
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return kfp.Client(
                host=config.kubeflow.host,
                namespace=config.kubeflow.namespace,
                existing_token=os.environ.get(TOKEN),
            )
    except TimeoutError as error:
        raise _no_kubeflow(config) from error
    finally:
        logging.disable(logging.NOTSET)


def _no_kubeflow(config: Config) -> ConfigError:
    return ConfigError(
        f"kubeflow.host={config.kubeflow.host} gives no sign of Kubeflow's API: mend the address,"
        f" or set {TOKEN} where it asks who is there."
    )


def deploy(client: Any, config: Config, spec: str) -> list[str]:
    """Makes the recurring run of a checked `config` the only one of its pipeline.

    The new recurring run is on before the old ones go, and all are read before anything is changed.

    Returns:
      What was changed, a line each; nothing when all was there.

    Raises:
      ConfigError: what answers is not Kubeflow.
    """
    namespace = None if config.kubeflow.namespace == _SINGLE_USER else config.kubeflow.namespace
    done: list[str] = []
    experiment = _experiment(client, config.kubeflow.experiment, namespace, done)
    if not experiment:
        # The SDK makes an empty object of every page of HTML, such as that of a login.
        raise _no_kubeflow(config)
    pipeline = _pipeline(client, config.name, namespace, done)
    version = f"{config.name}-{digest(spec)}"
    cron = check.cron(config)
    wanted = f"{config.name}-{digest(version, cron, config.artifacts, experiment)}"
    ours = [
        run
        for run in _all(client.list_recurring_runs, "recurring_runs", namespace=namespace)
        if run.pipeline_version_reference and run.pipeline_version_reference.pipeline_id == pipeline
    ]
    kept = next((r for r in ours if r.display_name == wanted), None)
    if kept is None:
        kept = client.create_recurring_run(
            experiment_id=experiment,
            job_name=wanted,
            cron_expression=cron,
            max_concurrency=1,
            no_catchup=True,
            pipeline_id=pipeline,
            version_id=_version(client, pipeline, version, spec, done),
            pipeline_root=config.artifacts,
        )
        done.append(f"recurring run {wanted} at {cron!r} (seconds first, UTC)")
    elif "DISABLED" in str(kept.status) or "DISABLE" in str(kept.mode):
        client.enable_recurring_run(kept.recurring_run_id)
        done.append(f"recurring run {wanted} switched on")
    for old in ours:
        # Those with other names were made by hand, and are somebody's.
        made_here = re.fullmatch(f"{re.escape(config.name)}-[0-9a-f]{{12}}", old.display_name)
        if made_here and old.recurring_run_id != kept.recurring_run_id:
            client.delete_recurring_run(old.recurring_run_id)
            done.append(f"recurring run {old.display_name} removed")
    return done


def _experiment(client: Any, name: str, namespace: str | None, done: list[str]) -> str:
    """Id of the experiment, which is made where there is none; "" where what answers has none."""
    listed = client.experiments.experiment_service_list_experiments
    if found := _named(listed, "experiments", name, namespace=namespace):
        return found.experiment_id
    made = client.experiments.experiment_service_create_experiment(
        experiment=client.api_models.V2beta1Experiment(display_name=name, namespace=namespace)
    )
    done.append(f"experiment {name}")
    return made.experiment_id or ""


def _pipeline(client: Any, name: str, namespace: str | None, done: list[str]) -> str:
    """Id of the pipeline, which is made without a version where there is none."""
    listed = client.pipelines.pipeline_service_list_pipelines
    if found := _named(listed, "pipelines", name, namespace=namespace):
        return found.pipeline_id
    made = client.pipelines.pipeline_service_create_pipeline(
        pipeline=client.api_models.V2beta1Pipeline(display_name=name, namespace=namespace)
    )
    done.append(f"pipeline {name}")
    return made.pipeline_id


def _version(client: Any, pipeline: str, name: str, spec: str, done: list[str]) -> str:
    """Id of the pipeline's version of that name, which is uploaded where there is none."""
    listed = client.list_pipeline_versions
    if found := _named(listed, "pipeline_versions", name, pipeline_id=pipeline):
        return found.pipeline_version_id
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pipeline.yaml")
        with open(path, "w") as file:
            file.write(spec)
        made = client.upload_pipeline_version(path, name, pipeline_id=pipeline)
    done.append(f"version {name}")
    return made.pipeline_version_id


def _named(list_page: Callable[..., Any], field: str, name: str, **query: Any) -> Any:
    """The first item with a display name, or None."""
    rule = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return next(_all(list_page, field, filter=json.dumps({"predicates": [rule]}), **query), None)


def _all(list_page: Callable[..., Any], field: str, **query: Any) -> Iterator[Any]:
    """All items of a list that the API gives in pages."""
    token = ""
    while True:
        page = list_page(page_token=token, page_size=_PAGE, **query)
        yield from getattr(page, field) or []
        token = page.next_page_token
        if not token:
            return
