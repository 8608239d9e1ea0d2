"""Command lines that a person can type after a run."""

from __future__ import annotations

import shlex

from pipeline.config import options
from pipeline.config.paths import Paths, absolute
from pipeline.config.settings import Config, Serve, to_dict
from serving.deploy import tensorflow_serving


def after(config: Config) -> list[dict[str, str]]:
    """`title` and `command` of what may come next; they hold in every folder of this machine where
    the package can be imported.
    """
    again = run(config)
    found = {
        "Serve the pushed versions": serve(config),
        "Ask the server": predict(config.serve),
        "Run again; what has not changed comes from the cache": again,
    }
    if not (config.train.warm_start or config.model.ensemble):
        more = f"{again} --set train.warm_start=true"
        found["Train on from the newest pushed version"] = more
    return [{"title": title, "command": command} for title, command in found.items()]


def run(config: Config) -> str:
    """The command line of a run with this configuration."""
    whole = to_dict(absolute(config))
    flags = [f"--preset={options.preset(whole).preset}"]
    for one in options.changes(whole):
        flags += ["--set", f"{one['setting']}={options.text(one['value'])}"]
    return shlex.join(["python", "-m", "pipeline.local_runner", *flags])


def serve(config: Config) -> str:
    """The command line of the embedded server, which needs no further file."""
    paths, settings = Paths(config), config.serve
    made = tensorflow_serving.Deployment(
        model_name=settings.model_name,
        directory=paths.serving,
        host=settings.host,
        rest_port=settings.rest_port,
        grpc_port=settings.grpc_port,
        num_versions=settings.num_versions,
        model_config=paths.model_config if settings.canary_hours else "",
        metrics_path="",
    )
    return shlex.join(tensorflow_serving.embedded_command(made, ""))


def predict(serve: Serve, python: str = "python") -> str:
    """The command line that asks the server of `serve`."""
    defaults = Serve()
    flags = [f"--model_name={serve.model_name}"] if serve.model_name != defaults.model_name else []
    if (serve.host, serve.rest_port) != (defaults.host, defaults.rest_port):
        # Where everything is listened to, this machine's own address is one to ask.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serve.host, serve.host)
        flags.append(f"--url=http://{f'[{host}]' if ':' in host else host}:{serve.rest_port}")
    return shlex.join([python, "-m", "serving.client", "IMAGE.jpg", *flags])
