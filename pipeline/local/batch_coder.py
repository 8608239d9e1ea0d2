"""How Beam learns the size of a batch of examples, where its jobs run in this process."""

from __future__ import annotations

import pyarrow as pa
import tensorflow_data_validation  # noqa: F401  # registers its coder, which is replaced here
from apache_beam import coders

_TFDV = coders.registry.get_coder(pa.RecordBatch)


class RecordBatchCoder(coders.Coder):
    """TFDV's coder, but for how it tells the size of a batch.

    Beam asks for that of each of the first batches in every place, and TFDV's serializes all images
    for it: a third of what the Evaluator costs for each image beside the model.
    """

    def encode(self, value: pa.RecordBatch) -> bytes:
        """See the base class."""
        return _TFDV.encode(value)

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        """See the base class."""
        return _TFDV.decode(encoded)

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Bytes in memory."""
        return value.nbytes

    def to_type_hint(self) -> type:
        """See the base class."""
        return pa.RecordBatch


def register() -> None:
    """Gives this process's Beam jobs the coder; a cluster's workers would need this module."""
    coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
