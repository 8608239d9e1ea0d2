"""Servers that the client's tests ask: the embedded one with two models, and ones that misbehave."""

import contextlib
import http.server
import threading

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tests.helpers.serving_models import publish
from tests.serving.server.test_server_process import Server, free_port


class Both:
    """The embedded server with REST and gRPC: resnet (versions 1 and 2, labels), and dense."""

    def __init__(self, exports, folder):
        config = ModelServerConfig()
        for name, export in (("resnet", "image"), ("dense", "dense")):
            for number in (1, 2):
                publish(exports / export, folder / name, number)
            model = config.model_config_list.config.add(name=name, base_path=str(folder / name))
            model.model_version_policy.latest.num_versions = 2
            model.version_labels.update({"stable": 1, "canary": 2})
        file = folder / "models.config"
        file.write_text(text_format.MessageToString(config))
        self.grpc = f"127.0.0.1:{free_port()}"
        self._server = Server(
            None, f"--model_config_file={file}", f"--port={self.grpc.split(':')[1]}"
        )
        self.url = self._server.url

    def stop(self):
        self._server.process.kill()
        self._server.process.communicate()


@contextlib.contextmanager
def http_server(answer):
    """A server on this machine; `answer(handler)` answers each GET and POST. Gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            # A client may have heard enough.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                answer(self)

        def do_POST(self):
            self.body = self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            """Keeps the terminal quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def reply(handler, status, body=b"", **headers):
    """Answers with a status, a body and headers (underscores become hyphens)."""
    handler.send_response(status)
    for name, value in {"Content_Length": len(body), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
