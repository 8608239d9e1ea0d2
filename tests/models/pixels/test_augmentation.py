"""Pixels against TensorFlow's whole-image resize, PIL and closed forms."""

import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from models.pixels import augmentation, crops, decoding, views
from models.settings import Transform
from tests.helpers import data

SHAPES = [(375, 500), (500, 375), (100, 131), (90, 90), (257, 511), (601, 803), (40, 900), (64, 64)]
SETTINGS = Transform(
    size=56, test_shorter_side=64, scale_min=64, scale_max=120, colour=0.0, flip=False
)


def constants(size=56, mean=0.0, covariance=None):
    return augmentation.Constants(
        pixel_mean=np.full([size, size, 3], mean, np.float32),
        channel_mean=np.full([3], mean, np.float32),
        covariance=np.eye(3, dtype=np.float32) if covariance is None else covariance,
        labels=("a", "b"),
        class_counts=(1, 1),
    )


def train_image(encoded, seed, settings, measured):
    """The view of (seed, number)."""
    records = tf.data.Dataset.from_tensors((tf.constant(seed[1], tf.int64), encoded))
    common = 1, seed[0], settings, measured
    [(images, _)] = augmentation.train_images(records, lambda record: (record, 0), *common)
    return images[0]


def encode(pixels, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def resized(encoded, shorter):
    """The whole image, decoded and resized by TensorFlow: float32 [height, width, 3]."""
    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    if tf.io.is_jpeg(encoded):
        pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    height, width = pixels.shape[:2]
    sides = [shorter * side // min(height, width) for side in (height, width)]
    return tf.image.resize(pixels, sides, antialias=True).numpy()


def middle(image, size):
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_center_equals_resizing_the_whole_image_and_cropping(shape, subsampling):
    encoded = data.jpeg(sum(shape), *shape, subsampling=subsampling)
    expected = middle(resized(encoded, 64), 56)
    np.testing.assert_allclose(augmentation.center_pixels(encoded, SETTINGS), expected, atol=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_center_equals_pil_within_its_rounding(shape):
    encoded = data.jpeg(1, *shape)
    image = Image.open(io.BytesIO(encoded))
    sides = [64 * side // min(shape) for side in shape]
    expected = middle(np.asarray(image.resize(sides[::-1], Image.Resampling.BILINEAR), float), 56)
    # PIL rounds to whole levels after each of its two passes.
    difference = np.abs(augmentation.center_pixels(encoded, SETTINGS) - expected)
    assert difference.max() <= 1.01 and difference.mean() < 0.4


@pytest.mark.parametrize("kind", ["png", "rgba", "grey", "cmyk", "progressive"])
def test_every_encoding_gives_three_channels(kind):
    make = {
        "png": lambda: data.png(4),
        "rgba": lambda: data.png(4, "RGBA"),
        "grey": lambda: data.grey(4),
        "cmyk": lambda: data.cmyk(4),
        "progressive": lambda: data.jpeg(4, progressive=True),
    }
    encoded = make[kind]()
    expected = middle(resized(encoded, 64), 56)
    np.testing.assert_allclose(augmentation.center_pixels(encoded, SETTINGS), expected, atol=0.02)
    assert augmentation.ten_crop(encoded, SETTINGS, constants()).shape == (10, 56, 56, 3)
    image = train_image(encoded, [1, 2], SETTINGS, constants())
    assert np.isfinite(image).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 4000)])
@pytest.mark.parametrize("crop", ["scale", "inception", "pad", "none"])
def test_extreme_shapes_do_not_fail(shape, crop):
    settings = dataclasses.replace(SETTINGS, crop=crop)
    for encoded in (data.jpeg(2, *shape), encode(data.pixels(2, *shape))):
        for image in (
            train_image(encoded, [3, 4], settings, constants()),
            augmentation.center(encoded, settings, constants()),
            augmentation.ten_crop(encoded, settings, constants())[0],
            augmentation.whole(decoding.decode(encoded), 56, constants()),
        ):
            sides = sorted(image.shape[:2])
            assert sides in ([56, 56], [56, 168]) and image.shape[2] == 3
            assert np.min(image) >= 0 and np.max(image) <= 255.01


def test_ten_crop_is_corners_centre_and_mirrors():
    encoded = data.jpeg(5, 150, 110)
    whole = resized(encoded, 64)
    corners = [
        whole[:56, :56],
        whole[:56, -56:],
        whole[-56:, :56],
        whole[-56:, -56:],
        middle(whole, 56),
    ]
    expected = np.stack([*corners, *[crop[:, ::-1] for crop in corners]]) - 100
    np.testing.assert_allclose(
        augmentation.ten_crop(encoded, SETTINGS, constants(mean=100.0)), expected, atol=0.02
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_image_is_resized_and_cut_to_three_to_one(shape):
    encoded = data.jpeg(sum(shape), *shape)
    image = augmentation.whole(decoding.decode(encoded), 64, constants(mean=100.0)).numpy()
    expected = resized(encoded, 64)
    sides = [min(side, 192) for side in expected.shape[:2]]
    top, left = ((have - want) // 2 for have, want in zip(expected.shape[:2], sides, strict=True))
    expected = expected[top : top + sides[0], left : left + sides[1]]
    assert min(image.shape[:2]) == 64
    np.testing.assert_allclose(image, expected - 100, atol=0.02)


def test_random_crops_are_windows_of_the_resized_image():
    """Every crop is found in the whole image, resized to a shorter side that was drawable."""
    encoded = data.jpeg(6, 75, 100)
    settings = dataclasses.replace(SETTINGS, scale_min=60, scale_max=62)
    wholes = {side: resized(encoded, side) for side in (60, 61, 62)}
    found = set()
    for number in range(16):
        crop = train_image(encoded, [7, number], settings, constants()).numpy()
        places = [
            (side, *place)
            for side, whole in wholes.items()
            for place in np.ndindex(whole.shape[0] - 55, whole.shape[1] - 55)
            if np.abs(whole[place[0] : place[0] + 56, place[1] : place[1] + 56] - crop).max() < 0.02
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 6 and {side for side, _, _ in found} == {60, 61, 62}


def drawn(crop, number, shape, **changes):
    """Scale and offset of `number` views: float64 [number, 4]."""
    settings = dataclasses.replace(SETTINGS, crop=crop, **changes)
    rng = np.random.default_rng(0)
    found = [crops.draw(shape, settings, np.eye(3), rng) for _ in range(number)]
    return np.array([[*view.scale, *view.offset] for view in found])


def test_scale_and_offset_cover_their_ranges():
    views_drawn = drawn("scale", 600, (100, 100), scale_min=64, scale_max=67)
    sides = np.round(views_drawn[:, 0] * 100).astype(int)
    assert set(sides) == {64, 65, 66, 67}
    np.testing.assert_allclose(np.bincount(sides)[64:] / 600, 1 / 4, atol=0.07)
    for side in (64, 67):
        offsets = views_drawn[sides == side, 2:].ravel()
        assert set(offsets) == set(range(side - 56 + 1))


def test_half_of_the_views_are_mirrored():
    settings = dataclasses.replace(SETTINGS, flip=True)
    rng = np.random.default_rng(0)
    mirrored = [crops.draw((90, 90), settings, np.eye(3), rng).mirror for _ in range(600)]
    assert 0.44 < np.mean(mirrored) < 0.56
    settings = dataclasses.replace(SETTINGS, flip=False)
    assert not any(crops.draw((90, 90), settings, np.eye(3), rng).mirror for _ in range(20))


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (64, 64), (57, 171)])
def test_the_view_without_a_crop_is_the_test_crop(shape):
    view = views.center_view(tf.constant(shape), SETTINGS)
    np.testing.assert_array_equal(drawn("none", 1, shape)[0], np.concatenate([*view]))


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (50, 1000), (8, 8)])
def test_inception_windows_lie_inside_with_area_and_aspect_in_range(shape):
    found = drawn("inception", 300, shape)
    sides = 56 / found[:, :2]
    origins = found[:, 2:] / found[:, :2]
    assert (origins > -1e-6).all() and (origins + sides < np.array(shape) + 1e-6).all()
    area = sides.prod(1) / np.prod(shape)
    aspect = sides[:, 1] / sides[:, 0]
    rounding = 1 / sides.min()
    assert (aspect > 3 / 4 - 2 * rounding).all() and (aspect < 4 / 3 + 2 * rounding).all()
    if max(shape) < 2 * min(shape):
        assert area.min() > 0.08 * (1 - 4 * rounding) and area.max() <= 1
        assert area.min() < 0.2 and area.max() > 0.85


def test_pad_pads_the_mean_subtracted_image_with_zeros():
    pixels = data.pixels(9, 56, 56)
    settings = dataclasses.replace(SETTINGS, crop="pad", pad=4, test_shorter_side=56, flip=True)
    padded = np.pad(pixels.astype(np.float32) - 90, [(4, 4), (4, 4), (0, 0)])
    windows = [padded[y : y + 56, x : x + 56] for y, x in np.ndindex(9, 9)]
    windows += [window[:, ::-1] for window in windows]
    found = set()
    for number in range(20):
        crop = train_image(encode(pixels), [number, 0], settings, constants(mean=90.0))
        same = [index for index, window in enumerate(windows) if np.array_equal(window, crop)]
        assert len(same) == 1
        found.add(same[0])
    assert len(found) > 12 and {index < 81 for index in found} == {True, False}


def test_seed_alone_decides():
    settings = dataclasses.replace(SETTINGS, colour=0.1, flip=True)
    encoded = data.jpeg(10, 120, 90)
    first, again, other = (
        train_image(encoded, seed, settings, constants()).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1


def test_colour_noise_is_that_of_fb_resnet_torch():
    """Its published constants for ImageNet, pixels in 0..1: shift = sum of alpha * eigenvalue *
    vector.
    """
    eigenvalues = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    covariance = (vectors * eigenvalues) @ vectors.T * 255**2
    settings = dataclasses.replace(SETTINGS, colour=0.1)
    measured = constants(covariance=covariance.astype(np.float32))
    rng, basis = np.random.default_rng(0), augmentation._basis(measured)
    noise = np.stack([crops.draw((90, 90), settings, basis, rng).shift for _ in range(4000)])
    expected = (0.1 * 255) ** 2 * (vectors * eigenvalues**2) @ vectors.T
    np.testing.assert_allclose(np.cov(noise, rowvar=False), expected, rtol=0.1, atol=0.3)


def test_colour_noise_shifts_all_pixels_alike():
    encoded = encode(np.full([64, 64, 3], 128, np.uint8))
    settings = dataclasses.replace(SETTINGS, colour=1.0)
    measured = constants(covariance=1000 * np.eye(3, dtype=np.float32))
    image = train_image(encoded, [5, 5], settings, measured).numpy()
    assert np.ptp(image.reshape(-1, 3), axis=0).max() < 1e-4
    assert np.abs(image[0, 0] - 128).max() > 0.1


def test_mean_is_of_pixels_or_channels():
    measured = dataclasses.replace(
        constants(),
        pixel_mean=np.random.default_rng(0).uniform(0, 255, [56, 56, 3]).astype(np.float32),
    )
    encoded = data.jpeg(11, 80, 100)
    plain = augmentation.center_pixels(encoded, SETTINGS)
    by_pixel = augmentation.center(encoded, SETTINGS, measured)
    by_channel = augmentation.center(
        encoded, dataclasses.replace(SETTINGS, mean="channel"), measured
    )
    np.testing.assert_array_equal(by_pixel, plain - measured.pixel_mean)
    np.testing.assert_array_equal(by_channel, plain)


def test_constants_and_settings_are_kept_in_a_file(tmp_path):
    path = str(tmp_path / "augmentation.npz")
    rng = np.random.default_rng(0)
    written = augmentation.Constants(
        pixel_mean=rng.uniform(0, 255, [56, 56, 3]).astype(np.float32),
        channel_mean=rng.uniform(0, 255, [3]).astype(np.float32),
        covariance=rng.uniform(0, 255, [3, 3]).astype(np.float32),
        labels=("n01", "n\u00e4"),
        class_counts=(3, 4),
    )
    settings = dataclasses.replace(SETTINGS, test_scales=(56, 70), mean="channel")
    augmentation.write_constants(path, written, settings)
    found, theirs = augmentation.read_constants(path)
    assert theirs == settings
    assert (found.labels, found.class_counts) == (written.labels, written.class_counts)
    for name in ("pixel_mean", "channel_mean", "covariance"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
        assert getattr(found, name).dtype == np.float32
    with np.load(path) as values:
        kept = {**values, "settings": json.dumps({"sizes": 56})}
    np.savez(path, **kept)
    with pytest.raises(
        ValueError, match=r"another version of this project: transform.sizes: there is no sizes"
    ):
        augmentation.read_constants(path)


def test_strength_widens_and_closes_the_ranges():
    settings = Transform()
    assert augmentation.strengthen(settings, 1.0) == settings
    off = augmentation.strengthen(settings, 0.0)
    assert (off.scale_max, off.pad, off.colour, off.area_min) == (off.scale_min, 0, 0.0, 1.0)
    assert augmentation.strengthen(settings, 0.5).scale_max == 368


@pytest.mark.parametrize("shape", [(300, 400), (401, 300), (1200, 1000)])
def test_shrink_keeps_the_aspect_and_is_close_to_pil(shape):
    encoded = data.jpeg(12, *shape)
    small = views.shrink(decoding.decode(encoded), 128).numpy()
    sides = [128 * side // min(shape) for side in shape]
    assert small.dtype == np.uint8 and list(small.shape) == [*sides, 3]
    image = Image.open(io.BytesIO(encoded)).resize(sides[::-1], Image.Resampling.BILINEAR)
    assert np.abs(small.astype(float) - np.asarray(image)).mean() < 2


def test_bytes_that_are_no_image_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        augmentation.center(b"no image", SETTINGS, constants())


@pytest.mark.shared_data
def test_real_photographs_equal_pil():
    archive = (
        Path(__file__).parents[4] / "shared" / "data" / "ilsvrc2012-10" / "ILSVRC2012_img_val.tar"
    )
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    settings = Transform(size=112, test_shorter_side=128)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers()[:25]:
            encoded = tar.extractfile(member).read()
            image = Image.open(io.BytesIO(encoded)).convert("RGB")
            sides = [128 * side // min(image.size) for side in image.size]
            expected = middle(
                np.asarray(image.resize(sides, Image.Resampling.BILINEAR), float), 112
            )
            difference = np.abs(augmentation.center_pixels(encoded, settings) - expected)
            assert difference.max() <= 1.01, member.name
