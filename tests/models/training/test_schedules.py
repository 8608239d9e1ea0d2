"""Learning rates against closed forms."""

import math

import pytest

from models.settings import Train
from models.training.schedules import learning_rate, peak, plateaus

STEPS = 100


def rate(train, epoch, errors=()):
    return learning_rate(train, round(epoch * STEPS), STEPS, errors)


def test_step_divides_by_ten_at_each_boundary():
    train = Train(epochs=90, learning_rate=0.1, schedule="step", boundaries=(30, 60, 80))
    expected = {
        0: 0.1,
        29.99: 0.1,
        30: 0.01,
        59.99: 0.01,
        60: 0.001,
        79.99: 0.001,
        80: 1e-4,
        89.99: 1e-4,
    }
    for epoch, value in expected.items():
        assert rate(train, epoch) == pytest.approx(value)


def test_boundaries_inside_an_epoch():
    # The paper's CIFAR recipe: 32k and 48k of 64k iterations of 128, 390 to an epoch.
    train = Train(epochs=164, schedule="step", boundaries=(32_000 / 390, 48_000 / 390))
    for step, value in {31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001}.items():
        assert learning_rate(train, step, 390) == pytest.approx(value)


def test_plateau_divides_by_ten_when_the_error_has_not_fallen():
    train = Train(schedule="plateau", patience=2)
    falling = [0.9, 0.8, 0.7]
    assert rate(train, 3, falling) == pytest.approx(0.1)
    assert rate(train, 4, [*falling, 0.7]) == pytest.approx(0.1)
    assert rate(train, 5, [*falling, 0.7, 0.75]) == pytest.approx(0.01)
    # A new best starts the patience anew, and so does a division.
    assert rate(train, 6, [*falling, 0.7, 0.75, 0.71]) == pytest.approx(0.01)
    assert rate(train, 7, [*falling, 0.7, 0.75, 0.6, 0.65]) == pytest.approx(0.01)
    assert rate(train, 9, [*falling, 0.7, 0.75, 0.6, 0.65, 0.6]) == pytest.approx(0.001)


def test_plateau_divides_three_times_at_most():
    train = Train(schedule="plateau", patience=1, learning_rate=0.1)
    rates = [rate(train, epoch, [0.5] * epoch) for epoch in range(1, 8)]
    assert rates == pytest.approx([0.1, 0.01, 1e-3, 1e-4, 1e-4, 1e-4, 1e-4])


def test_plateau_of_nothing():
    assert plateaus([], patience=1) == 0
    assert plateaus([0.5], patience=1) == 0
    assert plateaus([0.5] * 4, patience=1) == 3


def test_cosine_runs_from_the_peak_to_zero():
    train = Train(epochs=10, schedule="cosine", learning_rate=0.2)
    assert rate(train, 0) == pytest.approx(0.2)
    assert rate(train, 5) == pytest.approx(0.1)
    assert rate(train, 2.5) == pytest.approx(0.1 * (1 + math.sqrt(0.5)))
    assert rate(train, 10) == pytest.approx(0, abs=1e-12)


def test_warm_up_rises_linearly_and_the_cosine_follows():
    train = Train(epochs=12, schedule="cosine", warmup_epochs=2, learning_rate=0.1)
    assert learning_rate(train, 0, STEPS) == pytest.approx(0.1 / 200)
    assert learning_rate(train, 99, STEPS) == pytest.approx(0.05)
    assert learning_rate(train, 199, STEPS) == pytest.approx(0.1)
    assert rate(train, 2) == pytest.approx(0.1)
    assert rate(train, 7) == pytest.approx(0.05)
    rises = [learning_rate(train, step, STEPS) for step in range(200)]
    assert rises == sorted(rises)


def test_warm_up_of_part_of_an_epoch():
    train = Train(epochs=1, schedule="step", boundaries=(), warmup_epochs=0.25)
    rates = [learning_rate(train, step, 10) for step in range(4)]
    assert rates == pytest.approx([0.04, 0.08, 0.1, 0.1])


def test_the_rate_scales_linearly_with_the_batch():
    assert peak(Train(batch_size=1024, learning_rate=0.1, scale_lr=True)) == pytest.approx(0.4)
    assert peak(Train(batch_size=64, learning_rate=0.1, scale_lr=True)) == pytest.approx(0.025)
    assert peak(Train(batch_size=64, learning_rate=0.1)) == 0.1


def test_a_warm_up_by_error_is_a_tenth_until_warm_and_the_schedule_then():
    train = Train(
        epochs=90, learning_rate=0.1, schedule="step", boundaries=(30, 60), warmup_error=0.8
    )
    for epoch in (0, 29, 31, 61):
        assert learning_rate(train, epoch * STEPS, STEPS) == pytest.approx(0.01)
    for epoch, value in {0: 0.1, 29: 0.1, 31: 0.01, 61: 0.001}.items():
        assert learning_rate(train, epoch * STEPS, STEPS, warm=True) == pytest.approx(value)
    assert rate(Train(learning_rate=0.1), 0) == 0.1  # nothing to warm up
