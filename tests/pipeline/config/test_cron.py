"""Cron expressions: what Airflow and Kubeflow would refuse or wait for is said early, in one
sentence.
"""

import datetime
import itertools
import os
import subprocess

import pytest

from pipeline.config import cron, validity
from pipeline.config.options import assign
from pipeline.config.settings import Config, ConfigError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
AIRFLOW = os.path.join(ROOT, ".venv-airflow", "bin", "python")
# Prints the next times of every expression that it reads, as Airflow's own library finds them.
NEXT = """
import datetime, sys
from croniter import croniter
for line in sys.stdin:
    times = croniter(line.strip(), datetime.datetime(2026, 1, 1))
    print(*(times.get_next(datetime.datetime).isoformat() for _ in range(3)))
"""


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("weekly", "must have five fields"),
        ("0 3 * * 0 1", "must have five fields"),
        ("0  3 * * 0", "must have five fields"),
        ("60 3 * * 0", "60 is no minute"),
        ("0 24 * * 0", "24 is no hour"),
        ("0 3 0 * 0", "0 is no day of month"),
        ("0 3 * 13 0", "13 is no month"),
        ("0 3 * * 7", "7 is no day of week"),
        ("0 3 * * FOO", "FOO is no day of week"),
        ("0 3 * * FRI-MON", "FRI-MON is no day of week"),
        ("*/0 3 * * 0", "*/0 is no minute"),
        ("1_0 3 * * 0", "1_0 is no minute"),
        ("٣ 3 * * 0", "٣ is no minute"),
        ("/ , - * *", "/ is no minute"),
        ("0 3 L * *", "L is no day of month"),
        ("0 3 30 2 *", "month 2 has no day 30"),
        ("0 3 31 APR,JUN *", "month APR,JUN has no day 31"),
    ],
)
def test_a_wrong_expression_is_said_in_one_sentence(expression, words):
    with pytest.raises(ConfigError) as error:
        validity.check(assign(Config(), [f"schedule.cron={expression}"]))
    assert str(error.value).startswith(f"schedule.cron={expression!r} ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not os.path.exists(AIRFLOW), reason="needs .venv-airflow: make airflow-env")
def test_what_passes_comes_at_times_that_airflow_finds():
    fields = (
        ("*", "*/90", "5/15", "05"),
        ("*", "0-6/2", "23"),
        ("*", "*/31", "1,15", "29-31", "5/40"),
        ("*", "JAN-mar", "1/3", "FEB"),
        ("*", "*/2", "sun", "MON-FRI", "1-5,0"),
    )
    passed = []
    for texts in itertools.product(*fields):
        cron.check(" ".join(texts))
        passed.append(" ".join(texts))
    done = subprocess.run(
        [AIRFLOW, "-c", NEXT], input="\n".join(passed), capture_output=True, text=True, check=True
    )
    for expression, line in zip(passed, done.stdout.splitlines(), strict=True):
        texts = expression.split(" ")
        for moment in map(datetime.datetime.fromisoformat, line.split()):
            found = (moment.minute, moment.hour, moment.day, moment.month, moment.isoweekday() % 7)
            pairs = zip(found, texts, cron._FIELDS, strict=True)
            held = [value in cron._values(text, *field) for value, text, field in pairs]
            # Cron takes either day when both are given.
            day = held[2] and held[4] if "*" in (texts[2], texts[4]) else held[2] or held[4]
            assert held[0] and held[1] and held[3] and day, (expression, moment)
