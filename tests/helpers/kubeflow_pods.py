"""Runs a compiled pipeline as Kubeflow's driver and launcher do, every container's command as a
process.

After backend/src/v2/driver and backend/src/v2/component/launcher_v2.go of kubeflow/pipelines:

- artifacts go to <root>/<pipeline>/<run>/<task>/<uuid>/<output>; no driver hook is run;
- an input comes from ML Metadata: its name is its number, it has NO type (`"instanceSchema": ""`),
  and its metadata carry what the back end added;
- what a step gives back is read strictly, and its metadata go through ML Metadata's types: no null
  there;
- with the back end's PUBLISH_LOGS on, a step has one output more, `executor-logs`;
- a task that may be cached is, by its command, image, parameters and the numbers of its input
  artifacts;
- a task that is tried again gets the same input and the same places for its outputs.

Not as there: artifacts lie in a folder, not in a bucket, and all steps share this machine.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import uuid

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from tests.helpers import warm

_ADDED = {"store_session_info": '{"Provider":"","Params":null}'}
_LOGS = {"artifacts": [{"type": {"schemaTitle": "system.Artifact"}}]}


class StepFailed(Exception):
    """A container's command ended with another status than 0; the message has the end of its log."""


@dataclasses.dataclass
class Run:
    """One run: task -> output -> artifact as ML Metadata keeps it, and which tasks were cached."""

    artifacts: dict = dataclasses.field(default_factory=dict)
    cached: list = dataclasses.field(default_factory=list)
    logs: dict = dataclasses.field(default_factory=dict)


class Launcher:
    """Back end of one pipeline.

    Args:
      spec: PipelineSpec, JSON form.
      folder: everything goes below it; artifacts below `defaultPipelineRoot`.
      python: returns what stands for `python` in the commands.
    """

    def __init__(self, spec, folder, python=warm.python):
        self.spec, self.folder, self._python = spec, str(folder), python
        self.tasks = spec["root"]["dag"]["tasks"]
        self._count, self._cache = 0, {}

    def order(self):
        """Tasks, each after those it depends on."""
        done = []
        while len(done) < len(self.tasks):
            ready = [t for t in self.tasks if t not in done and self._needs(t) <= set(done)]
            assert ready, "The tasks wait for each other."
            done += sorted(ready)
        return done

    def _needs(self, name):
        task = self.tasks[name]
        inputs = task.get("inputs", {}).get("artifacts", {}).values()
        return set(task.get("dependentTasks", [])) | {
            i["taskOutputArtifact"]["producerTask"] for i in inputs
        }

    def container(self, name):
        label = self.spec["components"][self.tasks[name]["componentRef"]["name"]]["executorLabel"]
        return self.spec["deploymentSpec"]["executors"][label]["container"]

    def run(self, tasks=None, given=None, again=None):
        """Runs the tasks, all by default.

        Args:
          tasks: names, in order.
          given: another run whose artifacts stand for those of the tasks that are not run.
          again: called between two tries of every task; None tries once.
        """
        run = Run(artifacts=dict(given.artifacts) if given else {})
        identifier = str(uuid.uuid4())
        for name in tasks or self.order():
            self._task(run, identifier, name, again)
        return run

    def _task(self, run, identifier, name, again):
        inputs = self._inputs(run, name)
        key = json.dumps([name, inputs["key"], self.container(name)], sort_keys=True)
        cachable = self.tasks[name].get("cachingOptions", {}).get("enableCache", False)
        if cachable and key in self._cache:
            run.artifacts[name] = self._cache[key]
            run.cached.append(name)
            return
        pod = os.path.join(self.folder, identifier, name)
        os.makedirs(pod)
        outputs = self._outputs(identifier, name, pod)
        call = pb.ExecutorInput()
        json_format.ParseDict({"inputs": inputs["inputs"], "outputs": outputs}, call)
        text = json_format.MessageToJson(call, indent=None)
        if again:
            self._execute(name, pod, text)
            # The container is another one: its own disk is empty.
            shutil.rmtree(pod)
            os.makedirs(pod)
            again()
        run.logs[name] = self._execute(name, pod, text)
        run.artifacts[name] = self._cache[key] = self._published(outputs)

    def _inputs(self, run, name):
        asked = self.tasks[name].get("inputs", {})
        parameters = {
            k: v["runtimeValue"]["constant"] for k, v in asked.get("parameters", {}).items()
        }
        artifacts = {}
        for key, item in asked.get("artifacts", {}).items():
            source = item["taskOutputArtifact"]
            stored = run.artifacts[source["producerTask"]][source["outputArtifactKey"]]
            artifacts[key] = {"artifacts": [{**stored, "type": {"instanceSchema": ""}}]}
        numbers = {key: item["artifacts"][0]["name"] for key, item in artifacts.items()}
        return {
            "inputs": {"parameterValues": parameters, "artifacts": artifacts},
            "key": [parameters, numbers],
        }

    def _outputs(self, identifier, name, pod):
        component = self.spec["components"][self.tasks[name]["componentRef"]["name"]]
        made = {}
        for key, item in component.get("outputDefinitions", {}).get("artifacts", {}).items():
            made[key] = {
                "artifacts": [{"type": item["artifactType"], "metadata": item.get("metadata", {})}]
            }
        made["executor-logs"] = json.loads(json.dumps(_LOGS))
        salt, root = str(uuid.uuid4()), self.spec["defaultPipelineRoot"]
        for key, item in made.items():
            pipeline = self.spec["pipelineInfo"]["name"]
            item["artifacts"][0]["uri"] = "/".join([root, pipeline, identifier, name, salt, key])
        # In a pod it is /tmp/kfp_outputs, a folder of its own.
        return {
            "artifacts": made,
            "outputFile": os.path.join(pod, "kfp_outputs", "output_metadata.json"),
        }

    def _execute(self, name, pod, call):
        container = self.container(name)
        command = [
            part.replace("{{$}}", call) for part in [*container["command"], *container["args"]]
        ]
        assert command[0] == "python"
        command[:1] = self._python()
        log = os.path.join(pod, "log")
        with open(log, "w") as file:
            status = subprocess.run(
                command, cwd=pod, stdout=file, stderr=file, timeout=300
            ).returncode
        with open(log) as file:
            text = file.read()
        if status:
            raise StepFailed(f"{name} ended with status {status}: {text[-3000:]}")
        return text

    def _published(self, outputs):
        """The step's outputs as the next step gets them."""
        given = pb.ExecutorOutput()
        if os.path.exists(outputs["outputFile"]):
            with open(outputs["outputFile"]) as file:
                json_format.Parse(file.read(), given)
        said = json_format.MessageToDict(given).get("artifacts", {})
        stored = {}
        for key, item in outputs["artifacts"].items():
            artifact = item["artifacts"][0]
            merged = said.get(key, {}).get("artifacts", [{}])[0]
            metadata = artifact.get("metadata", {}) | merged.get("metadata", {})
            metadata |= {**_ADDED, "display_name": key}
            self._count += 1
            stored[key] = {
                "name": str(self._count),
                "uri": merged.get("uri") or artifact["uri"],
                "metadata": {k: _through_mlmd(v) for k, v in metadata.items()},
            }
        return stored


def _through_mlmd(value):
    """A metadata value after ML Metadata: truth becomes a number, a list or an object is wrapped."""
    if value is None:
        raise ValueError("unknown/unsupported value type: the back end stores no null")
    if isinstance(value, bool):
        return int(value)
    return (
        {"list": value}
        if isinstance(value, list)
        else {"struct": value}
        if isinstance(value, dict)
        else value
    )
