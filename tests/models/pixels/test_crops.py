"""Random views, against the draws of the same generator taken one by one as the paper's text has
them.
"""

from collections import Counter

import numpy as np
import pytest

from models.pixels import crops
from models.settings import Transform

SETTINGS = Transform(
    size=56,
    scale_min=64,
    scale_max=120,
    test_shorter_side=70,
    colour=0.0,
    flip=False,
    area_min=0.08,
)
SHAPES = [
    (375, 500),
    (500, 375),
    (64, 64),
    (57, 171),
    (50, 1000),
    (1000, 50),
    (3, 3),
    (3, 4),
    (1, 1000),
    (1, 1),
]


def settings(**changes):
    return Transform(**{**SETTINGS.__dict__, **changes})


IDENTITY = np.eye(3)


def drawn(shape, seed, basis=IDENTITY, **changes):
    return crops.draw(shape, settings(**changes), basis, np.random.default_rng(seed))


def test_the_test_crop_is_in_the_middle_at_the_test_scale():
    view = drawn((375, 500), 0, crop="none")
    np.testing.assert_array_equal(view.scale, [70 / 375, 93 / 500])  # 93.33 rounded down
    np.testing.assert_array_equal(view.offset, [7, 18])
    assert view.scale.dtype == view.offset.dtype == np.float64
    np.testing.assert_array_equal(drawn((500, 375), 0, crop="none").offset, [18, 7])


def test_a_padded_view_is_the_test_crop_moved_to_every_place_alike():
    views = [drawn((375, 500), seed, crop="pad", pad=2) for seed in range(2000)]
    test = drawn((375, 500), 0, crop="none")
    for view in views:
        np.testing.assert_array_equal([view.scale, view.offset], [test.scale, test.offset])
    moves = Counter(view.moved for view in views)
    assert set(moves) == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    assert min(moves.values()) > 45 and max(moves.values()) < 125  # 80 expected
    assert test.moved == drawn((375, 500), 1, crop="pad", pad=0).moved == (0, 0)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (64, 64), (57, 171)])
def test_a_scaled_view_is_a_window_of_the_image_with_the_side_that_was_drawn(shape):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        side = rng.integers(64, 121)
        target = [side * length // min(shape) for length in shape]
        places = [np.floor(rng.random() * (length - 55)) for length in target]
        view = drawn(shape, seed, crop="scale")
        np.testing.assert_array_equal(
            view.scale, [t / s for t, s in zip(target, shape, strict=True)]
        )
        np.testing.assert_array_equal(view.offset, places)


def window_by_hand(height, width, rng, area_min):
    """Top, left, height and width of the first of ten tries that fits, or of the central window."""
    for _ in range(10):
        area = height * width * rng.uniform(area_min, 1.0)
        aspect = np.exp(rng.uniform(np.log(0.75), np.log(4 / 3)))
        tall, wide = int(np.rint(np.sqrt(area / aspect))), int(np.rint(np.sqrt(area * aspect)))
        if 0 < tall < height + 1 and 0 < wide < width + 1:
            return (
                int(rng.random() * (height + 1 - tall)),
                int(rng.random() * (width + 1 - wide)),
                tall,
                wide,
            )
    tall, wide = height, width
    if width / height > 4 / 3:
        wide = int(np.rint(height * 4 / 3))
    elif width / height < 0.75:
        tall = int(np.rint(width / 0.75))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


@pytest.mark.parametrize("area_min", [0.08, 0.25, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_inception_view_is_the_first_window_that_fits(shape, area_min):
    for seed in range(60):
        top, left, tall, wide = window_by_hand(*shape, np.random.default_rng(seed), area_min)
        view = drawn(shape, seed, crop="inception", area_min=area_min)
        np.testing.assert_allclose(view.scale, [56 / tall, 56 / wide], rtol=1e-12)
        np.testing.assert_allclose(view.offset, [top * 56 / tall, left * 56 / wide], rtol=1e-12)


def test_inception_windows_take_every_size_that_is_allowed():
    views = [drawn((3, 3), seed, crop="inception") for seed in range(400)]
    windows = {tuple(np.rint(56 / view.scale).astype(int)) for view in views}
    assert windows == {(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)}


def test_the_central_window_has_the_nearest_aspect():
    for shape, window, origin in [
        ((50, 1000), (50, 67), (0, 466)),
        ((1000, 50), (67, 50), (466, 0)),
    ]:
        view = drawn(shape, 0, crop="inception")
        np.testing.assert_allclose(view.scale, 56 / np.array(window))
        np.testing.assert_allclose(view.offset, np.array(origin) * 56 / window)


def test_mirror_and_light_are_drawn_after_the_crop():
    basis = np.array([[1.0, 2, 3], [0, 1, 5], [4, 0, 1]])
    mirrored = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mirror = rng.random() < 0.5
        light = [sum(row * rng_normal) for rng_normal in [rng.normal(0, 0.3, 3)] for row in basis]
        view = drawn((90, 90), seed, basis, crop="none", flip=True, colour=0.3)
        assert view.mirror == mirror
        np.testing.assert_allclose(view.shift, light, rtol=1e-6)
        assert view.shift.dtype == np.float32
        mirrored.add(bool(mirror))
    assert mirrored == {False, True}


def test_nothing_is_drawn_for_a_mirror_or_a_light_that_is_off():
    view = drawn((90, 90), 3, crop="none", flip=False, colour=0.3)
    np.testing.assert_allclose(view.shift, np.random.default_rng(3).normal(0, 0.3, 3), rtol=1e-6)
    assert not view.mirror
    view = drawn((90, 90), 3, crop="none", flip=True, colour=0.0)
    np.testing.assert_array_equal(view.shift, np.zeros(3, np.float32))
    assert view.shift.dtype == np.float32
