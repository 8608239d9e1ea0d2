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
