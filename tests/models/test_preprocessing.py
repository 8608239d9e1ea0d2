"""Transform's function through TFX's own executor, against NumPy and PIL."""

import collections
import dataclasses
import io
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image
from tfx.components.transform.executor import Executor
from tfx.proto import transform_pb2
from tfx.types import standard_artifacts
from tfx.types import standard_component_specs as keys
from tfx.utils import proto_utils
from tfx_bsl.coders import batch_util

from models import preprocessing
from models.pixels import augmentation, decoding
from models.settings import Transform
from tests.helpers import data
from tests.helpers.memory import peak_rise

SYNSETS = ("n01440764", "n02102040", "n03000684")
SHAPES = [(40, 50), (90, 120), (33, 33), (64, 300), (1, 1), (150, 48)]
SETTINGS = Transform(size=24, test_shorter_side=28, crop="pad", colour=0.0)
BYTES = ("image/encoded", "image/format", "image/filename", "image/class/synset")
INTS = ("image/height", "image/width", "image/channels", "image/class/label")


@dataclasses.dataclass(frozen=True)
class Row:
    encoded: bytes
    height: int
    width: int
    label: int
    filename: str

    def example(self):
        values = {
            "image/encoded": self.encoded,
            "image/format": b"jpeg",
            "image/filename": self.filename.encode(),
            "image/height": self.height,
            "image/width": self.width,
            "image/channels": 3,
            "image/class/label": self.label,
            "image/class/synset": SYNSETS[self.label].encode(),
        }
        return tf.train.Example(
            features=tf.train.Features(feature={k: _feature(v) for k, v in values.items()})
        )


def _feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def rows(count, seed=0):
    made = []
    for number in range(count):
        height, width = SHAPES[number % len(SHAPES)]
        encoded = data.jpeg(seed + number, height, width)
        made.append(
            Row(
                encoded,
                height,
                width,
                (number * number) % 3 or number % 2 * 2,
                f"{seed}_{number}.JPEG",
            )
        )
    return made


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    return made


def transform(folder, splits, settings, materialize, shape="shape {}"):
    """Runs TFX's Transform executor; returns the TransformGraph's and the transformed examples'
    folders.
    """
    for split, records in splits.items():
        path = folder / "examples" / f"Split-{split}"
        path.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(path / "data_tfrecord-00000-of-00001")) as writer:
            for record in records:
                writer.write(record.example().SerializeToString())
    (folder / "schema").mkdir()
    kinds = [(name, "BYTES") for name in BYTES] + [(name, "INT") for name in INTS]
    (folder / "schema" / "schema.pbtxt").write_text(
        "".join(
            f'feature {{ name: "{name}" type: {kind} presence {{ min_fraction: 1 min_count: 1 }}'
            f" {shape} }}\n"
            for name, kind in kinds
        )
    )
    examples = artifact(standard_artifacts.Examples, folder / "examples")
    examples.split_names = json.dumps(list(splits))
    outputs = {
        keys.TRANSFORM_GRAPH_KEY: [artifact(standard_artifacts.TransformGraph, folder / "graph")]
    }
    if materialize:
        outputs[keys.TRANSFORMED_EXAMPLES_KEY] = [
            artifact(standard_artifacts.Examples, folder / "transformed")
        ]
    config = transform_pb2.SplitsConfig(
        analyze=["train"], transform=list(splits) if materialize else []
    )
    context = Executor.Context(["--runner=FnApiRunner"], tmp_dir=str(folder / "tmp"), unique_id="1")
    Executor(context).Do(
        {
            keys.EXAMPLES_KEY: [examples],
            keys.SCHEMA_KEY: [artifact(standard_artifacts.Schema, folder / "schema")],
        },
        outputs,
        {
            keys.PREPROCESSING_FN_KEY: "models.preprocessing.preprocessing_fn",
            keys.CUSTOM_CONFIG_KEY: json.dumps(
                {"transform": dataclasses.asdict(settings), "code": "0"}
            ),
            keys.DISABLE_STATISTICS_KEY: 1,
            keys.SPLITS_CONFIG_KEY: proto_utils.proto_to_json(config),
        },
    )
    return str(folder / "graph"), folder / "transformed"


def center_by_pil(record, shorter_side=0):
    """The test crop by PIL, of the image shrunk before: float [24, 24, 3]."""
    image = Image.open(io.BytesIO(record.encoded)).convert("RGB")
    if 0 < shorter_side < min(image.size):
        sides = [shorter_side * side // min(image.size) for side in image.size]
        image = image.resize(sides, Image.Resampling.BILINEAR)
    sides = [28 * side // min(image.size) for side in image.size]
    pixels = np.asarray(image.resize(sides, Image.Resampling.BILINEAR), float)
    top, left = ((side - 24) // 2 for side in pixels.shape[:2])
    return pixels[top : top + 24, left : left + 24]


def read(folder, split):
    (path,) = (folder / f"Split-{split}").iterdir()
    dataset = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
    return [
        tf.train.Example.FromString(record).features.feature
        for record in dataset.as_numpy_iterator()
    ]


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """A run that materializes nothing."""
    train = rows(40)
    folder = tmp_path_factory.mktemp("analyzed")
    graph, _ = transform(folder, {"train": train, "eval": rows(5, seed=900)}, SETTINGS, False)
    return graph, train, folder


def test_constants_are_those_of_the_training_split(analyzed):
    graph, train, _ = analyzed
    constants = preprocessing.load_constants(graph)
    crops = np.stack([center_by_pil(record) for record in train])
    pixels = crops.reshape(-1, 3)
    assert constants.pixel_mean.dtype == constants.covariance.dtype == np.float32
    np.testing.assert_allclose(constants.pixel_mean, crops.mean(0), atol=0.5)
    np.testing.assert_allclose(constants.channel_mean, pixels.mean(0), atol=0.1)
    np.testing.assert_allclose(
        constants.covariance, np.cov(pixels, rowvar=False), rtol=0.01, atol=3
    )
    counts = collections.Counter(record.label for record in train)
    assert constants.labels == SYNSETS
    assert constants.class_counts == tuple(counts[label] for label in range(3))


def test_without_a_scale_stage_no_example_is_written(analyzed):
    assert not (analyzed[2] / "transformed").exists()


@pytest.fixture(scope="module")
def rescaled(tmp_path_factory):
    """A run with a scale stage, a sample, and columns that the schema gives no shape."""
    settings = dataclasses.replace(SETTINGS, shorter_side=40, analyze_fraction=0.5)
    train = rows(40)
    splits = {"train": train, "eval": rows(5, seed=900)}
    graph, transformed = transform(
        tmp_path_factory.mktemp("rescaled"), splits, settings, True, shape=""
    )
    return graph, splits, transformed


@pytest.mark.parametrize("split", ["train", "eval"])
def test_scale_stage_shrinks_large_images_alone(rescaled, split):
    _, splits, folder = rescaled
    originals = {record.filename: record for record in splits[split]}
    written = read(folder, split)
    assert len(written) == len(originals)
    for example in written:
        value = {name: (f.bytes_list.value or f.int64_list.value)[0] for name, f in example.items()}
        original = originals.pop(value["image/filename"].decode())
        assert value["image/class/label"] == original.label
        assert value["image/class/synset"].decode() == SYNSETS[original.label]
        sides = (original.height, original.width)
        if min(sides) <= 40:
            assert value["image/encoded"] == original.encoded
            assert (value["image/height"], value["image/width"]) == sides
            continue
        smaller = [40 * side // min(sides) for side in sides]
        assert [value["image/height"], value["image/width"]] == smaller
        image = Image.open(io.BytesIO(value["image/encoded"]))
        expected = Image.open(io.BytesIO(original.encoded)).resize(
            smaller[::-1], Image.Resampling.BILINEAR
        )
        assert image.size == expected.size
        difference = np.abs(np.asarray(image, float) - np.asarray(expected, float))
        assert difference.max() <= 2  # PIL rounds after each of its two passes, here once
        # What is stored is what evaluation and serving see of the original.
        settings = dataclasses.replace(SETTINGS, shorter_side=40)
        np.testing.assert_array_equal(image, decoding.load(original.encoded, settings))
        np.testing.assert_array_equal(image, decoding.load(value["image/encoded"], settings))


def test_sample_is_chosen_by_the_file_name(rescaled):
    graph, splits, _ = rescaled
    names = [record.filename for record in splits["train"]]
    chosen = tf.strings.to_hash_bucket_fast(names, 1_000_000).numpy() < 500_000
    assert 10 < chosen.sum() < 30
    sample = [record for record, used in zip(splits["train"], chosen, strict=True) if used]
    constants = preprocessing.load_constants(graph)
    np.testing.assert_allclose(
        constants.pixel_mean,
        np.mean([center_by_pil(record, 40) for record in sample], axis=0),
        atol=0.5,
    )
    # Counts are of all examples, sampled or not.
    assert sum(constants.class_counts) == 40


def test_labels_that_are_not_the_sorted_classes_are_refused():
    good = {(0, b"n01"): 3, (1, b"n02"): 4}
    assert preprocessing._vocabulary(good) == (["n01", "n02"], [3, 4])
    for bad in (
        {(0, b"n01"): 3, (2, b"n02"): 4},
        {(1, b"n01"): 3, (2, b"n02"): 4},
        {(0, b"n02"): 3, (1, b"n01"): 4},
        {(0, b"n01"): 3, (0, b"n02"): 4},
        {(0, b"n01"): 3, (1, b"n01"): 4},
    ):
        with pytest.raises(ValueError, match="0-based index"):
            preprocessing._vocabulary(bad)


def test_sums_are_as_exact_as_float32_is():
    settings = dataclasses.replace(SETTINGS, size=224, test_shorter_side=256)
    encoded = [data.jpeg(seed, 300, 280) for seed in range(8)]
    count, image, outer = preprocessing._totals(tf.constant(encoded), tf.range(8), settings)
    crops = [
        augmentation.center_pixels(tf.constant(e), settings).numpy().astype(float) for e in encoded
    ]
    colours = np.reshape(crops, [-1, 3])
    assert count.numpy() == [8]
    np.testing.assert_allclose(image[0], np.sum(crops, axis=0), rtol=1e-12)
    np.testing.assert_allclose(outer[0], colours.T @ colours, rtol=2e-7)


def test_an_empty_sample_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="analyze_fraction"):
        preprocessing._write((collections.Counter(), 0, 0.0, 0.0), str(tmp_path / "a.npz"), "{}")


def test_a_folder_without_constants_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        preprocessing.load_constants(str(tmp_path))


def test_batches_are_limited_by_bytes():
    """TFX then hands over 20 MiB at a time, not 1,000 rows."""
    assert flags.FLAGS["tfxio_use_byte_size_batching"].value
    kwargs = batch_util.GetBatchElementsKwargs(None)
    assert (
        kwargs["max_batch_size"] == 20 * 2**20
        and kwargs["element_size_fn"](b"x" * 10_000) == 10_000
    )


def test_asset_is_one_file(analyzed):
    assets = os.path.join(analyzed[0], "transform_fn", "assets")
    assert os.listdir(assets) == [augmentation.CONSTANTS_FILE]


def test_one_photograph_is_in_memory_at_a_time():
    """150 photographs of 1600x1200 are 860 MB once they are decoded."""
    photo = data.jpeg(0, 1200, 1600)
    settings = dataclasses.replace(SETTINGS, shorter_side=64)

    @tf.function(autograph=False)
    def work(encoded):
        columns = {
            "image/encoded": encoded,
            "image/height": tf.repeat(tf.constant([1200], tf.int64), tf.size(encoded)),
            "image/width": tf.repeat(tf.constant([1600], tf.int64), tf.size(encoded)),
        }
        totals = preprocessing._totals(encoded, tf.range(tf.size(encoded)), settings)
        return totals[0], tf.size(preprocessing.rescale(columns, settings)["image/encoded"])

    work(tf.constant([photo] * 2))
    batch = tf.constant([photo] * 150)
    assert peak_rise(lambda: work(batch)) < 120
