"""Runs a study of the paper and writes its report.

python -m pipeline.study degradation --set data.source=TFDS_DATA_DIR [--seeds 0 1] [--devices 0 1]
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape

from pipeline.config.settings import ConfigError
from pipeline.study import runner
from pipeline.study.definitions import STUDIES, Study


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 (a run failed) or 2 (wrong arguments)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(arguments)
    study = STUDIES[args.study]
    console = Console(highlight=False)
    # A scheduler's way to stop: like Ctrl-C, the run under way is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if len(set(args.devices)) < len(args.devices):
            raise ConfigError(f"--devices {' '.join(args.devices)}: name each device once.")
        jobs = runner.jobs(study, args.set, args.seeds, args.members)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2

    def say(text: str) -> None:
        console.print(f"[bold]{study.name}[/]  {escape(text)}", soft_wrap=True)

    # The report says what makes the runs.
    making = [argument for argument in arguments if argument != "--report-only"]
    command = shlex.join(["python", "-m", "pipeline.study", *making])
    try:
        failed = [] if args.report_only else runner.run(jobs, args.devices, say)
        return _report(study, jobs, command, say) or (1 if failed else 0)
    except KeyboardInterrupt:
        say("interrupted; run the same command again to continue")
        return 130
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _report(
    study: Study, jobs: Sequence[runner.Job], command: str, say: Callable[[str], None]
) -> int:
    """Writes the report of what has ended well; returns the exit status."""
    results = [result for job in jobs if (result := job.result)]
    if not results:
        say("no run has ended well, so there is nothing to report")
        return 1
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from pipeline.study import report  # matplotlib and, for some studies, TensorFlow

    home = os.path.dirname(os.path.dirname(jobs[0].folder))
    written = report.write(study, results, os.path.join(home, "reports", study.name), command)
    say(f"{len(results)} of {len(jobs)} runs in {os.path.relpath(written)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.study",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Runs one of the paper's experiments and writes a report beside its numbers.\n"
            "What has ended well is not run again; a killed training continues."
        ),
        epilog="studies:\n"
        + "".join(f"  {s.name:<21} {s.source}; preset {s.preset}\n" for s in STUDIES.values())
        + "\nexamples:\n  python -m pipeline.study degradation --set data.source=TFDS_DATA_DIR"
        " --devices 0 1 2 3\n  python -m pipeline.study shortcuts --set data.source=ILSVRC2012"
        " --members plain-34 'ResNet-34 A'",
    )
    parser.add_argument("study", choices=STUDIES, metavar="STUDY", help="one of those below")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="for all runs; repeatable",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the trainings; default 0"
    )
    parser.add_argument("--members", nargs="+", default=[], metavar="LABEL", help="only these nets")
    parser.add_argument(
        "--devices",
        nargs="+",
        default=[],
        metavar="GPU",
        help="GPU numbers, one run at a time on each; without, one run at a time on all devices",
    )
    parser.add_argument(
        "--report-only", action="store_true", help="run nothing, report what there is"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
