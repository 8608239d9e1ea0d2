"""The `tfx` command: upstream's, with `run create --pipeline_path=FILE` and `run list` here.

The tfx wheel's console script finds this through pipeline/compat/tfx_cli_main.py.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

import click

from components import code_version

_GROUPS = {
    "pipeline": "Create, update, list and delete pipelines.",
    "run": "Create, list and stop runs.",
    "template": "Copy one of TFX's pipeline templates.",
}


def _upstream(group: str) -> click.Group:
    # Upstream's handlers call `pip` by name: the one beside this Python.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
    from tfx.tools.cli.commands.pipeline import pipeline_group
    from tfx.tools.cli.commands.run import run_group
    from tfx.tools.cli.commands.template import template_group

    return dict(zip(_GROUPS, (pipeline_group, run_group, template_group), strict=True))[group]


class _Commands(click.Group):
    """Upstream's groups, imported when used: `tfx --help` is immediate."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_GROUPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "run":
            return run_group
        return _upstream(name) if name in _GROUPS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_GROUPS.items()))


class _Run(click.Group):
    """Upstream's `tfx run` with our `create` in front of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_upstream("run").list_commands(ctx))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = {"create": create, "list": list_runs}
        return own.get(name) or _upstream("run").get_command(ctx, name)


@click.group("cli", cls=_Commands)
@click.version_option(
    code_version.release(),
    prog_name="ResNet-TFX",
    message=f"%(prog)s %(version)s, TFX {metadata.version('tfx')}",
)
def cli_group() -> None:
    """TFX pipelines from the command line."""


@click.group("run", cls=_Run)
def run_group() -> None:
    """Group of commands for runs."""


@click.command(
    "create",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog=(
        "Options after --pipeline_path that are not listed here go to the pipeline file: "
        "--preset=NAME, --set section.field=value."
    ),
)
@click.option(
    "--pipeline_path",
    "--pipeline-path",
    type=click.Path(),
    help="Python file that runs the pipeline; no `tfx pipeline create` is needed first.",
)
@click.option(
    "--pipeline_name", "--pipeline-name", help="Name of a pipeline made with `tfx pipeline create`."
)
@click.option("--engine", default="auto", help="Orchestrator: auto, local, beam, airflow, vertex.")
@click.pass_context
def create(
    ctx: click.Context, pipeline_path: str | None, pipeline_name: str | None, engine: str
) -> None:
    """Create a new run of a pipeline."""
    if pipeline_path is None:
        if pipeline_name is None:
            raise click.UsageError(
                "Give --pipeline_path=FILE to run a file, or --pipeline_name=NAME for a pipeline"
                " made before."
            )
        upstream = _upstream("run").get_command(ctx, "create")
        assert upstream is not None
        args = ["--engine", engine, "--pipeline_name", pipeline_name, *ctx.args]
        with upstream.make_context("create", args, parent=ctx.parent) as sub:
            upstream.invoke(sub)
        return
    if not os.path.isfile(pipeline_path):
        raise click.UsageError(f"--pipeline_path {pipeline_path}: there is no such file.")
    if engine not in ("auto", "local", "beam"):
        raise click.UsageError(
            "--pipeline_path runs a file here, for the engines local and beam: use `tfx pipeline"
            f" create --engine={engine}`, then `tfx run create --pipeline_name=NAME`."
        )
    # In the place of this process: Ctrl-C and kill reach the run itself.
    os.execv(sys.executable, [sys.executable, pipeline_path, *ctx.args])


@click.command("list")
@click.option("--pipeline_name", "--pipeline-name", default="", help="Runs of this pipeline alone.")
@click.option(
    "--engine", default="auto", help="Orchestrator: auto, local, airflow, kubeflow, vertex."
)
@click.option("--root", default="runs", help="Folder of local pipelines.")
@click.pass_context
def list_runs(ctx: click.Context, pipeline_name: str, engine: str, root: str) -> None:
    """List the runs of pipelines, the newest first."""
    if engine in ("auto", "local"):
        asked = ["--set", f"root={root}", "list", *([pipeline_name] if pipeline_name else [])]
        # In the place of this process, for it reads ML Metadata without upstream's imports.
        os.execv(sys.executable, [sys.executable, "-m", "pipeline.runs", *asked])
    upstream = _upstream("run").get_command(ctx, "list")
    assert upstream is not None
    args = ["--engine", engine, "--pipeline_name", pipeline_name]
    with upstream.make_context("list", args, parent=ctx.parent) as sub:
        upstream.invoke(sub)
