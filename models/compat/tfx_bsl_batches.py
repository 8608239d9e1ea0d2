"""How many examples Beam hands over at a time, which the readers of tfx_bsl decide."""

from __future__ import annotations

import tfx_bsl.coders.batch_util  # noqa: F401  # defines the flag
from absl import flags


def limit_bytes() -> None:
    """At most 20 MiB of them; otherwise it would be up to 1,000 photographs."""
    flags.FLAGS.set_default("tfxio_use_byte_size_batching", True)
