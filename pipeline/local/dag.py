"""Running the nodes of the graph one by one, with TFX's portable launcher."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from apache_beam.io import filesystems
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.compiler import compiler, constants
from tfx.orchestration import metadata
from tfx.orchestration.local import local_dag_runner, runner_utils
from tfx.orchestration.portable import (
    beam_executor_operator,
    launcher,
    outputs_utils,
    python_executor_operator,
    runtime_parameter_utils,
)
from tfx.orchestration.portable.mlmd import execution_lib
from tfx.proto.orchestration import executable_spec_pb2

from components import code_version, files, pushed
from components.report import component as report
from models.weights import pretrained
from pipeline.config import metadata as store
from pipeline.config.paths import Paths
from pipeline.config.settings import Config, ConfigError, to_dict
from pipeline.local import figures, history, leftovers
from pipeline.local.terminal_view import View
from pipeline.pipeline import create_pipeline

# Output artifacts of a component by name.
Outputs = dict[str, list[types.Artifact]]


def prepare(config: Config) -> None:
    """Sets this process up for the nodes of a run.

    Raises:
      ConfigError: a place that cannot be reached with what is installed, or cannot be written.
    """
    paths = Paths(config)
    _check_reach("artifacts", paths.artifacts, filesystems.FileSystems.get_filesystem)
    for name, path in (("artifacts", paths.artifacts), ("serve.directory", paths.serving)):
        _check_reach(name, path, tf.io.gfile.exists)
    _check_writable("serve.directory", paths.serving)
    if config.train.cpu_devices > 0:
        # Before any component starts TensorFlow: later it cannot be changed.
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * config.train.cpu_devices
        )


def _check_writable(name: str, path: str) -> None:
    """The Pusher is the last node, and would be the first to find out."""
    if "://" in path:
        return
    there = os.path.abspath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{name}={path} must be a folder that can be written: {there} is none.")


def _check_reach(name: str, path: str, look: Callable[[str], Any]) -> None:
    if "://" not in path:
        return
    try:
        look(path)
    except (ValueError, tf.errors.OpError) as error:
        raise ConfigError(
            f"{name}={path} cannot be reached from this machine: {files.reason(error)}."
        ) from error


def compiled(config: Config, run_id: str) -> Any:
    """The graph of one run in TFX's intermediate representation, named as by `named`."""
    return named(compiler.Compiler().compile(create_pipeline(config)), run_id)


def named(ir: Any, run_id: str) -> Any:
    """The graph with the name of its run in ML Metadata; "" takes the time."""
    runtime_parameter_utils.substitute_runtime_parameter(
        ir,
        {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id or datetime.datetime.now().isoformat()},
    )
    return ir


def node_ids(ir: Any) -> list[str]:
    """Nodes of the graph in an order that can be executed."""
    return [item.pipeline_node.node_info.id for item in ir.nodes]


class _Afresh:
    """Empties the folders of a node's outputs before it runs; TFX would let it add to them.

    A killed try has left something there, or a run whose metadata store is lost.
    """

    def run_executor(self, execution_info: Any, *args: Any) -> Any:
        for artifact in itertools.chain.from_iterable(execution_info.output_dict.values()):
            if not artifact.is_external:
                files.remove_tree(artifact.uri)
        outputs_utils.make_output_dirs(execution_info.output_dict)
        return super().run_executor(execution_info, *args)  # type: ignore[misc]


class _Python(_Afresh, python_executor_operator.PythonExecutorOperator):
    """TFX's way to run a Python component."""


class _Beam(_Afresh, beam_executor_operator.BeamExecutorOperator):
    """TFX's way to run a Beam component."""


class _Told(_Python):
    """Tells a component what only ML Metadata knows.

    Args:
      name: of the execution property.
      tell: gives its value for the component's inputs.
    """

    def __init__(self, name: str, tell: Callable[[Any], Any], **specs: Any) -> None:
        super().__init__(**specs)
        self._name, self._tell = name, tell

    def run_executor(self, execution_info: Any, *args: Any) -> Any:
        # Only now: the cache has been looked at, and must not see it.
        told = json.dumps(self._tell(execution_info.input_dict), indent=2)
        execution_info.exec_properties[self._name] = told
        return super().run_executor(execution_info, *args)


_OPERATORS = {
    executable_spec_pb2.PythonClassExecutableSpec: _Python,
    executable_spec_pb2.BeamExecutableSpec: _Beam,
}


class Nodes:
    """Runs the nodes of one compiled graph and shows each.

    Attributes:
      outputs: of the nodes that have run, by node id.
      current: id of the node that runs.
    """

    def __init__(self, ir: Any, config: Config, view: View) -> None:
        self._ir, self._config, self._view = ir, config, view
        store.check(config)
        leftovers.close(config)
        self._connection = store.connection(config)
        self._deployment = runner_utils.extract_local_deployment_config(ir)
        self._nodes = {item.pipeline_node.node_info.id: item.pipeline_node for item in ir.nodes}
        self._run_id = ir.runtime_spec.pipeline_run_id.field_value.string_value
        self._noted = False
        self.outputs: dict[str, Outputs] = {}
        self.current = ""

    def run_all(self) -> None:
        """Every node in order; raises what a node raises."""
        for name in self._nodes:
            self.run(name)

    def run(self, name: str) -> str:
        """One node, or what the cache has of it; returns "done", "cached" or "skipped"."""
        self.current = name
        with self._view.component(name, talks=name in ("Trainer", "Tuner")) as outcome:
            try:
                info = self._launcher(name).launch()
            finally:
                self._note()  # also of a run whose first node fails
            assert info
            outcome.state, outputs = _result(self._connection, info.execution_id)
            if outputs:
                self.outputs[name] = outputs
                outcome.figure = figures.of(name, self.outputs)
            else:
                outcome.figure = "its inputs are missing"
            return outcome.state

    def _launcher(self, name: str) -> launcher.Launcher:
        node = self._nodes[name]
        # The cache does not look whether what it pushed is still there, and whole.
        gone = name == "Pusher" and _nothing_whole(Paths(self._config).serving)
        if gone or name in self._config.no_cache:
            node.execution_options.caching_options.enable_cache = False
        return launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=metadata.Metadata(self._connection),
            pipeline_info=self._ir.pipeline_info,
            pipeline_runtime_spec=self._ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(self._deployment, name),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(self._deployment, name),
            custom_executor_operators=self._operators(name),
        )

    def _operators(self, name: str) -> dict[Any, Any]:
        told = {"Report": (report.SECONDS, self._seconds), "Pusher": ("lineage", self._lineage)}
        if name not in told:
            return _OPERATORS
        operator = functools.partial(_Told, *told[name])
        return {**_OPERATORS, executable_spec_pb2.PythonClassExecutableSpec: operator}

    def _seconds(self, _: Any) -> list[dict[str, Any]]:
        """`node`, `seconds` and `state` of the nodes of this run that have ended."""
        with metadata.Metadata(self._connection) as handle:
            nodes = history.run(handle.store, self._run_id).nodes
        ended = ((name, nodes[name]) for name in self._nodes if name in nodes)
        return [
            {"node": name, "seconds": node.seconds, "state": node.state}
            for name, node in ended
            if node.state in ("done", "cached")
        ]

    def _lineage(self, inputs: dict[str, list[types.Artifact]]) -> dict[str, Any]:
        with metadata.Metadata(self._connection) as handle:
            return history.lineage(handle.store, inputs["evaluation"][0].id)

    def _note(self) -> None:
        """Keeps settings and code with the run, once, for pipeline.runs."""
        if self._noted:
            return
        self._noted = True
        with metadata.Metadata(self._connection) as handle:
            code = code_version.name()
            history.note(handle.store, self._run_id, to_dict(self._config), code)


class Runner(local_dag_runner.LocalDagRunner):
    """Upstream's runner with our view; `tfx pipeline create` finds pipelines by its `run`.

    Attributes:
      nodes: of the run; None before it, and where the run is only registered.
    """

    def __init__(self, config: Config, view: View) -> None:
        super().__init__()
        self._config, self._view = config, view
        self.nodes: Nodes | None = None

    def run_with_ir(self, pipeline: Any, *args: Any, **kwargs: Any) -> None:
        """See the base class; there are no partial runs."""
        # The log, the configuration beside it and the run have one name.
        name = os.path.basename(self._view.log).removesuffix(".log")
        self.nodes = Nodes(named(pipeline, name), self._config, self._view)
        self.nodes.run_all()


def _nothing_whole(folder: str) -> bool:
    """Whether the newest of the pushed versions is damaged, or there is none."""
    versions = pretrained.versions(folder)
    return not versions or bool(pushed.damage(versions[0]))


def _result(
    connection: metadata_store_pb2.ConnectionConfig, execution_id: int
) -> tuple[str, Outputs]:
    """How an execution ended, "done", "cached" or "skipped" (without outputs), and its outputs."""
    with metadata.Metadata(connection) as handle:
        [execution] = handle.store.get_executions_by_id([execution_id])
        cached = execution.last_known_state == execution.CACHED
        outputs = execution_lib.get_output_artifacts(handle, execution_id)
        return ("cached" if cached else "done") if outputs else "skipped", outputs
