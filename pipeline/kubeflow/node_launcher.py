"""What a step's container runs: TFX's executor command, with what open-source Kubeflow leaves out.

Kubeflow's launcher hands artifacts over without their types, which TFX must know; the step's own
declaration has them. It may also add an artifact for logs, which is none of TFX's. Its folder for
temporary files is the container's own, which the workers of a Beam cluster cannot see. And a step
that is tried again gets the same places for its artifacts, with what the try before has left there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from components import files
from pipeline import local_runner
from pipeline.local.terminal_view import reason

_EXECUTOR = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one step; returns 1 with the reason as the last line on standard error when it fails."""
    parser = argparse.ArgumentParser(prog="kubeflow_node", allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True, metavar="JSON")
    parser.add_argument("--json_serialized_inputs_spec_args", required=True, metavar="JSON")
    args, beam = parser.parse_known_args(argv)
    local_runner.environment()
    call = completed(
        json.loads(args.json_serialized_invocation_args),
        json.loads(args.json_serialized_inputs_spec_args),
    )
    report = call["outputs"].get("outputFile", "")
    if _on_cluster(beam):
        call["outputs"]["outputFile"] = os.path.join(_folder(call), os.path.basename(report))
    sys.argv = [
        sys.argv[0],
        f"--executor_class_path={args.executor_class_path}",
        f"--json_serialized_invocation_args={json.dumps(call)}",
        f"--json_serialized_inputs_spec_args={args.json_serialized_inputs_spec_args}",
        *beam,
    ]
    try:
        _clear(call["outputs"].get("artifacts", {}))
        _execute()
        _bring_back(call["outputs"].get("outputFile", ""), report)
    except Exception as error:
        logging.exception("The step stopped.")
        print(f"{args.executor_class_path} failed: {reason(error)}", file=sys.stderr)
        return 1
    return 0


def _clear(outputs: dict[str, Any]) -> None:
    """Removes what an earlier try of the step has written, but not what ExampleGen has prepared."""
    for item in outputs.values():
        for artifact in item["artifacts"]:
            files.remove_tree(artifact["uri"])


def _execute() -> None:
    """TFX's command with the arguments in `sys.argv`; as commands do, it ends with a SystemExit."""
    try:
        runpy.run_module(_EXECUTOR, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def completed(call: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    """An ExecutorInput with the types of its input artifacts, and with TFX's artifacts alone.

    Args:
      call: ExecutorInput, JSON form, as the launcher writes it.
      declared: ComponentInputsSpec of the step, JSON form.
    """
    inputs, outputs = call.get("inputs", {}), call.get("outputs", {})
    types = {key: item["artifactType"] for key, item in declared.get("artifacts", {}).items()}
    given = {
        key: {
            "artifacts": [
                {**artifact, "type": types[key]} for artifact in item.get("artifacts", [])
            ]
        }
        for key, item in inputs.get("artifacts", {}).items()
        if key in types
    }
    made = {
        key: item for key, item in outputs.get("artifacts", {}).items() if not _is_kubeflows(item)
    }
    return {
        **call,
        "inputs": {**inputs, "artifacts": given},
        "outputs": {**outputs, "artifacts": made},
    }


def _on_cluster(beam: Sequence[str]) -> bool:
    runners = [arg for arg in beam if arg.startswith("--runner=")]
    return bool(runners) and runners != ["--runner=FnApiRunner"]


def _folder(call: dict[str, Any]) -> str:
    """Where all tries of the step keep artifacts; TFX puts temporary files beside its report."""
    return os.path.dirname(next(iter(call["outputs"]["artifacts"].values()))["artifacts"][0]["uri"])


def _bring_back(report: str, place: str) -> None:
    """Moves the report to where the launcher reads it, and removes temporary files beside it."""
    if report != place:
        files.make_dirs(os.path.dirname(place))
        files.write(place, files.read(report))
        files.remove(report)
        files.remove_tree(os.path.join(os.path.dirname(report), ".temp"))


def _is_kubeflows(item: dict[str, Any]) -> bool:
    """Whether an output is one that Kubeflow adds, such as `executor-logs`."""
    return any(
        a.get("type", {}).get("schemaTitle", "").startswith("system.") for a in item["artifacts"]
    )


if __name__ == "__main__":
    sys.exit(main())
