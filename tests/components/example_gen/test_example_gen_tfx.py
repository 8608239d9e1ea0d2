"""In a TFX pipeline: caching, and TFX's own readers on uncompressed shards."""

import glob
import os

import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx import v1 as tfx
from tfx.orchestration import metadata

from components.example_gen import component
from components.example_gen.settings import Data
from tests.helpers import data


def preprocessing_fn(inputs):
    return {"label": inputs["image/class/label"], "height": inputs["image/height"]}


def _run(root, config, readers=True):
    examples = component.example_gen(config)
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"])
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn=f"{__name__}.preprocessing_fn",
    )
    connection = metadata.sqlite_metadata_connection_config(os.path.join(root, "mlmd.sqlite"))
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="ingestion",
        pipeline_root=os.path.join(root, "out"),
        components=[examples, statistics, schema, transform] if readers else [examples],
        enable_cache=True,
        metadata_connection_config=connection,
        beam_pipeline_args=["--runner=FnApiRunner"],
    )
    tfx.orchestration.LocalDagRunner().run(pipeline)


def test_tfx_reads_plain_shards_and_caches(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "in"), per_class=20)
    config = Data(kind="ilsvrc", source=folder)
    _run(str(tmp_path), config)
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    (path,) = glob.glob(f"{tmp_path}/out/StatisticsGen/statistics/*/Split-train/FeatureStats.pb")
    with open(path, "rb") as stream:
        statistics.ParseFromString(stream.read())
    assert statistics.datasets[0].num_examples == 60
    paths = glob.glob(f"{tmp_path}/out/Transform/transformed_examples/*/Split-train/*.gz")
    rows = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(paths, "GZIP")]
    labels = [r.features.feature["label"].int64_list.value[0] for r in rows]
    assert sorted(labels) == sorted([0, 1, 2] * 20)
    made = glob.glob(f"{tmp_path}/out/ImageExampleGen/examples/*")
    _run(str(tmp_path), config, readers=False)
    assert glob.glob(f"{tmp_path}/out/ImageExampleGen/examples/*") == made
    with open(os.path.join(folder, "ILSVRC2012_img_val.tar"), "ab"):
        os.utime(os.path.join(folder, "ILSVRC2012_img_val.tar"), (10**9, 10**9))
    _run(str(tmp_path), config, readers=False)
    assert len(glob.glob(f"{tmp_path}/out/ImageExampleGen/examples/*")) == 2
