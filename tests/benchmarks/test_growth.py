"""The exponent that a benchmark reports."""

import numpy as np
import pytest

from benchmarks import growth


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_is_that_of_the_law(power):
    numbers = [1000, 4000, 16000]
    assert growth.exponent(numbers, 3 * np.power(numbers, float(power))) == pytest.approx(power)


def test_fixed_cost_makes_it_smaller():
    numbers = [1000, 4000, 16000]
    assert growth.exponent(numbers, [2 + number / 1000 for number in numbers]) < 1


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_without_the_fixed_cost(power):
    seconds = [5 + 3 * number**power for number in (1, 4, 16)]
    assert growth.further_exponent(seconds, 4) == pytest.approx(power)


def test_no_exponent_where_nothing_grows():
    assert np.isnan(growth.further_exponent([2.0, 1.9, 2.1], 4))
