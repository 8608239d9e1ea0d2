"""Which settings are refused, and that the presets are not."""

import dataclasses
import subprocess
import sys
from typing import get_args

import pytest

from models import settings
from models.fields import MAX_SEED
from models.pixels import crops
from models.settings import Model, Train, Transform, Tune, check
from models.training import schedules
from pipeline.config.presets import PRESETS

SECTIONS = {"transform": Transform, "model": Model, "train": Train, "tune": Tune}


def checked(section="train", **changes):
    check(*(kind(**changes if name == section else {}) for name, kind in SECTIONS.items()))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_pass(preset):
    config = preset()
    check(config.transform, config.model, config.train, config.tune)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("transform", {"crop": "scale", "size": 256, "scale_min": 256, "scale_max": 256}),
        ("transform", {"shorter_side": 256}),
        ("transform", {"crop": "none", "scale_min": 480, "shorter_side": 256}),
        ("transform", {"crop": "pad", "scale_min": 9, "scale_max": 8}),
        ("transform", {"area_min": 1.0, "pad": 0, "colour": 0.0}),
        ("model", {"family": "cifar", "depth": 8}),
        ("model", {"family": "cifar", "depth": 1202}),
        *(("model", {"depth": depth}) for depth in (18, 34, 50, 101, 152)),
        ("train", {"momentum": 0.0, "weight_decay": 0.0, "boundaries": ()}),
        ("train", {"epochs": 1, "warmup_epochs": 0.99}),
        (
            "train",
            {"epochs": 0, "init_from": "somewhere", "frozen_stages": 5, "warmup_epochs": 5.0},
        ),
        ("train", {"warmup_error": 0.8, "ema": 0.9999, "bn_examples": 1}),
        ("train", {"boundaries": (0.0, 0.5), "seed": MAX_SEED}),
    ],
)
def test_ends_of_the_ranges_pass(section, changes):
    checked(section, **changes)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("transform.crop", ["middle", ""]),
        ("transform.mean", ["median"]),
        ("transform.size", [0, 257]),
        ("transform.pad", [-1]),
        ("transform.colour", [-0.1, NAN, INF]),
        ("transform.area_min", [0.0, 1.01, NAN]),
        ("transform.analyze_fraction", [0.0, 1.01]),
        ("transform.test_shorter_side", [223]),
        ("transform.scale_min", [223, 481]),
        ("transform.scale_max", [255]),
        ("transform.shorter_side", [-1, 255]),
        ("model.family", ["vgg"]),
        ("model.depth", [20, 0]),
        ("model.shortcut", ["D"]),
        ("model.variant", ["v2"]),
        ("train.batch_size", [0, 10**6 + 1]),
        ("train.epochs", [0, 10**6 + 1, 10**20]),
        ("train.learning_rate", [0.0, -1.0, NAN, INF]),
        ("train.schedule", ["poly"]),
        ("train.boundaries", [(60.0, 30.0), (30.0, 30.0), (NAN,), (30.0, INF), (-1.0, 30.0)]),
        ("train.patience", [0]),
        ("train.warmup_epochs", [-1.0, 90.0, NAN]),
        ("train.momentum", [-0.1, 1.0, NAN]),
        ("train.weight_decay", [-1e-4, INF]),
        ("train.label_smoothing", [-0.1, 1.0]),
        ("train.warmup_error", [-0.1, 1.0, NAN]),
        ("train.ema", [-0.1, 1.0, NAN]),
        ("train.bn_examples", [-1, NAN, 10**20]),
        ("train.frozen_stages", [-1, 6]),
        ("train.precision", ["float64"]),
        ("train.strategy", ["ring"]),
        ("train.cpu_devices", [-1, 1025]),
        ("train.seed", [-1, 2**32 - 1]),
        ("train.shuffle_buffer", [0, 10**20]),
        ("train.checkpoint_seconds", [0.0]),
        ("tune.trials", [0, 10**20]),
        ("tune.epochs", [0]),
        ("tune.examples", [0]),
        ("tune.seed", [-1, 2**32 - 1]),
    ],
)
def test_values_out_of_range_are_refused_by_name(setting, values):
    section, field = setting.split(".")
    assert field in {found.name for found in dataclasses.fields(SECTIONS[section])}
    for value in values:
        with pytest.raises(ValueError, match=r"^(transform|model|train|tune)\.\w+=.*\.$") as error:
            checked(section, **{field: value})
        # A bound between two settings may be said of the other one.
        assert setting in str(error.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "train",
            {"momentum": 1.5},
            "train.momentum=1.5: must be a number, at least 0 and below 1.",
        ),
        (
            "train",
            {"epochs": 1, "warmup_epochs": 1},
            (
                "train.warmup_epochs=1 does not fit into train.epochs=1: lower it with "
                "--set train.warmup_epochs=0."
            ),
        ),
        (
            "train",
            {"seed": -3},
            "train.seed=-3: must be a whole number, at least 0 and at most 4,294,967,294.",
        ),
        (
            "train",
            {"frozen_stages": 2},
            (
                "train.frozen_stages=2: stages can be frozen only when train.init_from names the"
                " weights that they have."
            ),
        ),
        (
            "train",
            {"warmup_error": 0.8, "warmup_epochs": 1.0},
            (
                "train.warmup_error=0.8 and train.warmup_epochs=1.0: choose one warm-up and set the"
                " other to 0."
            ),
        ),
        (
            "model",
            {"depth": 20},
            f"model.depth=20: must be one of {', '.join(map(str, settings.BLOCKS))} in the imagenet"
            " family.",
        ),
        (
            "model",
            {"family": "cifar", "depth": 21},
            "model.depth=21: must be 6n+2 in the cifar family, such as 8, 20, 32, 44, 56 or 110.",
        ),
        (
            "transform",
            {"test_shorter_side": 200},
            (
                "transform.test_shorter_side=200: must be at least transform.size=224, or no crop"
                " fits."
            ),
        ),
    ],
)
def test_messages(section, changes, message):
    with pytest.raises(ValueError) as error:
        checked(section, **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "model": Model(family="cifar", depth=20),
                "train": Train(init_from="there", frozen_stages=5),
            },
            "train.frozen_stages=5: must be from 0 to 4, as a cifar network ends with conv4_x.",
        ),
        (
            {"train": Train(init_from="there", epochs=0), "tune": Tune(enabled=True)},
            (
                "train.epochs=0: nothing is trained, so there is nothing to tune; set"
                " tune.enabled=false."
            ),
        ),
    ],
)
def test_what_two_sections_exclude(changes, message):
    with pytest.raises(ValueError) as error:
        check(*(changes.get(name, kind()) for name, kind in SECTIONS.items()))
    assert str(error.value) == message


def test_the_settings_need_no_tensorflow():
    code = (
        "import sys, models.settings; sys.exit('tensorflow' in sys.modules or 'keras' in"
        " sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_that_are_valid_are_those_that_exist():
    assert get_args(settings.Crop) == tuple(crops.CROPS)
    assert get_args(settings.Schedule) == tuple(schedules.FACTORS)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (settings.Protocol("center", size=223), "crops of 223 pixels are smaller"),
        (settings.Protocol("whole", size=288), "the sides of transform.test_scales"),
        (settings.Protocol("whole", shorter_side=288), "the sides of transform.test_scales"),
    ],
)
def test_protocols_that_no_network_passes_are_refused(protocol, message):
    with pytest.raises(ValueError, match=message):
        protocol.transform(Transform())
