"""LocalDagRunner with a progress view."""

from __future__ import annotations

import datetime
from typing import Any

import tensorflow as tf
from tfx import types
from tfx import v1 as tfx
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.orchestration.portable.mlmd import execution_lib

from pipeline import figures
from pipeline.config import Config
from pipeline.pipeline import create_pipeline
from pipeline.progress import View

# Output artifacts of a component by name.
Outputs = dict[str, list[types.Artifact]]


def build(config: Config) -> tfx.dsl.Pipeline:
    """The pipeline, in a process that is set up for it."""
    if config.train.cpu_devices > 0:
        # Before any component starts TensorFlow: later it cannot be changed.
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * config.train.cpu_devices
        )
    return create_pipeline(config)


class ProgressRunner(tfx.orchestration.LocalDagRunner):
    """Runs node after node and shows each; partial runs are left to upstream's runner.

    Args:
      view: where to show it.
      serving: folder of the pushed versions.
    """

    def __init__(self, view: View, serving: str) -> None:
        super().__init__()
        self._view = view
        self._serving = serving
        self.nodes: dict[str, Outputs] = {}
        self.current = ""

    def run_with_ir(self, pipeline: Any, run_options: Any = None, **kwargs: Any) -> None:
        """See the base class, whose loop this is, with a line a node."""
        if run_options:
            super().run_with_ir(pipeline, run_options)
            return
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.datetime.now().isoformat()}
        )
        deployment = runner_utils.extract_local_deployment_config(pipeline)
        connection = getattr(
            deployment.metadata_connection_config,
            deployment.metadata_connection_config.WhichOneof("connection_config"),
        )
        for item in pipeline.nodes:
            node = item.pipeline_node
            self.current = node.node_info.id
            if self.current == "Pusher" and not tf.io.gfile.exists(self._serving):
                # The cache does not look whether what it pushed is still there.
                node.execution_options.caching_options.enable_cache = False
            component = launcher.Launcher(
                pipeline_node=node,
                mlmd_connection=metadata.Metadata(connection),
                pipeline_info=pipeline.pipeline_info,
                pipeline_runtime_spec=pipeline.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(deployment, self.current),
                custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, self.current),
            )
            self._launch(component, connection)

    def _launch(self, component: Any, connection: Any) -> None:
        name = self.current
        with self._view.component(name, talks=name in ("Trainer", "Tuner")) as outcome:
            info = component.launch()
            if info is None or info.execution_id is None:
                outcome.state, outcome.figure = "skipped", "its inputs are missing"
                return
            cached, outputs = _result(connection, info.execution_id)
            self.nodes[name] = outputs
            outcome.state = "cached" if cached else "done"
            outcome.figure = figures.of(name, self.nodes)


def _result(connection: Any, execution_id: int) -> tuple[bool, Outputs]:
    """Whether an execution came from the cache, and its outputs as MLMD has them."""
    with metadata.Metadata(connection) as handle:
        [execution] = handle.store.get_executions_by_id([execution_id])
        cached = execution.last_known_state == execution.CACHED
        return cached, execution_lib.get_output_artifacts(handle, execution_id)
