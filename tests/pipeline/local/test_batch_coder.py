"""What Beam is told of batches of examples."""

import pyarrow as pa
import tensorflow_data_validation  # noqa: F401  # registers its coder
from apache_beam import coders

from pipeline.local import batch_coder


def test_batches_are_coded_as_tfdv_does_and_not_to_tell_their_size():
    batch = pa.record_batch({"image": [[b"a" * 1000], [b"b" * 1000]]})
    batch_coder.register()
    coder = coders.registry.get_coder(pa.RecordBatch)
    assert isinstance(coder, batch_coder.RecordBatchCoder)
    assert coder.decode(coder.encode(batch)).equals(batch)
    assert coder.get_impl().decode(coder.get_impl().encode(batch)).equals(batch)
    assert coder.get_impl().estimate_size(batch) == batch.nbytes != len(coder.encode(batch))
