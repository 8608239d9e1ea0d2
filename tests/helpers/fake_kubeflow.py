"""A Kubeflow Pipelines API in this process: keeps what it is given and records every request.

Bodies must be what the generated models of kfp_server_api know, and specifications a PipelineSpec
2.1.0.
"""

import email
import email.policy
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from types import SimpleNamespace

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

_API = "/apis/v2beta1"
_PAGE = 2  # smaller than what is asked for, so that lists come in pages


class FakeKubeflow:
    """Serves on 127.0.0.1 while it is used as a context.

    Attributes:
      url: of the API.
      requests: "METHOD path" in order, identifiers and queries left out.
      stored: kind -> list of objects.
      fails: set of requests that are answered with an error.
      page: where it is not empty, all that is answered, as a login or another service does.
    """

    def __init__(self):
        self.requests, self.fails, self.page = [], set(), ""
        self._ids = itertools.count(100)
        self.stored = {
            "experiments": [],
            "pipelines": [],
            "pipeline_versions": [],
            "recurringRuns": [],
        }
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def changes(self):
        """The requests since the last call that were not mere questions."""
        made = [r for r in self.requests if not r.startswith("GET")]
        self.requests.clear()
        return made

    def answer(self, method, path, query, headers, body):
        kind = path.removeprefix(_API).strip("/")
        name = re.sub(r"/[0-9]+", "", kind)
        self.requests.append(f"{method} {name}")
        if f"{method} {name}" in self.fails:
            return 500, {"error": "as the test asks"}
        if kind == "healthz":
            return 200, {"multi_user": False}
        if kind == "pipelines/upload_version":
            return 200, self._upload(query, headers, body)
        found = re.fullmatch(r"recurringruns/([0-9]+)(:enable)?", kind)
        if found:
            return 200, self._recurring_run(method, *found.groups())
        stored = {"recurringruns": "recurringRuns", "pipelines/versions": "pipeline_versions"}.get(
            name, name
        )
        if method == "GET":
            owner = re.search(r"pipelines/([0-9]+)/versions", kind)
            items = [i for i in self.stored[stored] if not owner or i["pipeline_id"] == owner[1]]
            return 200, _page(stored, items, query)
        model, key = {
            "experiments": ("V2beta1Experiment", "experiment_id"),
            "pipelines": ("V2beta1Pipeline", "pipeline_id"),
            "recurringRuns": ("V2beta1RecurringRun", "recurring_run_id"),
        }[stored]
        item = {**strict(json.loads(body), model), key: self._id()}
        if stored == "recurringRuns":
            # They belong where their experiment does.
            [owner] = [
                e for e in self.stored["experiments"] if e["experiment_id"] == item["experiment_id"]
            ]
            item |= {key: owner[key] for key in ("namespace",) if key in owner}
        return 200, self._keep(stored, item)

    def _id(self):
        return str(next(self._ids))

    def _keep(self, kind, item):
        self.stored[kind].append(item)
        return item

    def _recurring_run(self, method, identifier, enable):
        [run] = [r for r in self.stored["recurringRuns"] if r["recurring_run_id"] == identifier]
        if enable:
            run["mode"] = "ENABLE"
        else:
            assert method == "DELETE"
            self.stored["recurringRuns"].remove(run)
        return {}

    def _upload(self, query, headers, body):
        message = email.message_from_bytes(
            f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body,
            policy=email.policy.HTTP,
        )
        [part] = message.iter_parts()
        spec = yaml.safe_load(part.get_payload(decode=True))
        assert spec["schemaVersion"] == "2.1.0"
        json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        version = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": self._id(),
            "display_name": query["name"],
            "pipeline_spec": spec,
        }
        return self._keep("pipeline_versions", strict(version, "V2beta1PipelineVersion"))


def strict(body, model):
    """The body, when it has no field that the model does not know and every value has the field's
    type.
    """
    kind = getattr(kfp_server_api, model)
    unknown = set(body) - set(kind.attribute_map.values())
    assert not unknown, f"{model} has no {unknown}"
    for field, key in kind.attribute_map.items():
        part = kind.openapi_types[field]
        if isinstance(body.get(key), dict) and hasattr(
            getattr(kfp_server_api, part, None), "attribute_map"
        ):
            strict(body[key], part)
    kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(body)), model)
    return body


def _page(kind, items, query):
    if query.get("filter"):
        [rule] = json.loads(query["filter"])["predicates"]
        assert rule["operation"] in ("EQUALS", 1)  # protobuf's JSON takes names and numbers
        items = [i for i in items if i[rule["key"]] == rule["stringValue"]]
    if query.get("namespace"):
        items = [i for i in items if i.get("namespace") == query["namespace"]]
    start = int(query.get("page_token") or 0)
    rest = {"next_page_token": str(start + _PAGE)} if len(items) > start + _PAGE else {}
    return {kind: items[start : start + _PAGE], **rest}


def _handler(fake):
    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self):
            url = urllib.parse.urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                query = dict(urllib.parse.parse_qsl(url.query))
                status, answer = fake.answer(self.command, url.path, query, self.headers, body)
            except Exception as error:  # the test sees it as the API's refusal
                status, answer = 400, {"error": repr(error)}
            text = (fake.page or json.dumps(answer)).encode()
            self.send_response(200 if fake.page else status)
            self.send_header("Content-Type", "text/html" if fake.page else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _any

        def log_message(self, *_):
            pass

    return Handler
