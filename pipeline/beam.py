"""Beam options of a run."""

from __future__ import annotations

from pipeline.config import Beam, ConfigError


def arguments(beam: Beam) -> list[str]:
    """Pipeline arguments for every Beam job.

    Raises:
      ConfigError: worker processes asked of a cluster runner.
    """
    args = list(beam.args)
    if args == list(Beam().args):
        # Workers on this machine have our code; without a word about where workers get theirs from,
        # TFX packs itself into a source distribution, a second for every Beam component.
        args.append("--sdk_container_image=local")
    if beam.workers > 1:
        if not any(a == "--runner=FnApiRunner" for a in args):
            raise ConfigError(
                "--set beam.workers: worker processes belong to --runner=FnApiRunner; "
                "a cluster has its own options, to be given in beam.args."
            )
        args += ["--direct_running_mode=multi_processing", f"--direct_num_workers={beam.workers}"]
    return args
