"""The names of published weights: their facts, what they fit, and what is said of wrong ones."""

import re
from pathlib import Path

import pytest
from keras.src.applications import resnet

from models.settings import BLOCKS, Model
from models.weights import published
from models.weights.named import catalogue

ROOT = Path(__file__).parents[4]
ENTRIES = catalogue.ENTRIES.values()


def test_keras_itself_has_these_addresses_and_checksums():
    wanted = {}
    for name in ("resnet50", "resnet101", "resnet152"):
        for end, md5 in zip(("", "_notop"), resnet.WEIGHTS_HASHES[name], strict=True):
            file = f"{name}_weights_tf_dim_ordering_tf_kernels{end}.h5"
            wanted[f"keras:{name}{end}"] = (resnet.BASE_WEIGHTS_PATH + file, "md5", md5)
    found = {e.name: (e.address, e.algorithm, e.checksum) for e in ENTRIES if e.algorithm == "md5"}
    assert found == wanted


def test_a_checksum_is_the_one_in_the_name_of_the_file():
    """The loaders of torchvision and timm read it there, with this pattern."""
    for entry in ENTRIES:
        if entry.algorithm == "sha256":
            digits = re.search(r"-([a-f0-9]*)\.", entry.address.rpartition("/")[2])[1]
            assert len(digits) == 8 and entry.checksum.startswith(digits)
            assert len(entry.checksum) in (8, 64)


def torch_names(depth):
    blocks = BLOCKS[depth]
    convs = 3 if blocks.bottleneck else 2
    for stage, count in enumerate(blocks.numbers, start=1):
        for block in range(count):
            yield from (f"layer{stage}.{block}.conv{i}.weight" for i in range(1, convs + 1))
        if stage > 1 or blocks.bottleneck:
            yield f"layer{stage}.0.downsample.0.weight"
    yield "fc.weight"


def keras_names(depth):
    for stage, count in enumerate(BLOCKS[depth].numbers, start=2):
        yield from (f"conv{stage}_block{block}_1_conv/kernel" for block in range(1, count + 1))
    yield "predictions/kernel"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_network_is_what_its_file_is_recognised_as(entry):
    names = keras_names if entry.name.startswith("keras:") else torch_names
    found = published.recognise(dict.fromkeys(names(entry.model.depth))).settings
    assert found.network == entry.model.network
    assert f"resnet{entry.model.depth}" in entry.address
    catalogue.check(entry.name, found)


def test_facts_are_within_reason():
    assert len({entry.address for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert entry.address.startswith("https://")
        # Float32: 11.7 to 60.4 million parameters, nearly all of the file; MiB.
        millions = {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}[entry.model.depth]
        headless = millions - 2.05 if "notop" in entry.name else millions
        assert entry.size == pytest.approx(4e6 * headless / 2**20, rel=0.02)
        if entry.errors:
            assert 3.5 < entry.errors[1] < entry.errors[0] / 2 < 16


def test_the_document_has_the_table():
    page = (ROOT / "docs" / "weights.md").read_text()
    assert catalogue.table() in page, f"Put this into docs/weights.md:\n{catalogue.table()}"


@pytest.mark.parametrize(
    "source, named",
    [
        ("torchvision:resnet50", True),
        ("hub:other", True),
        ("resnet50.pth", False),
        ("s3://bucket/resnet50.pth", False),
        ("gs://bucket", False),
        ("runs/a:b/serving", False),
        ("", False),
    ],
)
def test_a_name_is_told_from_a_path(source, named):
    assert catalogue.is_name(source) == named


def test_a_file_of_such_a_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("torchvision:resnet50").write_text("")
    assert not catalogue.is_name("torchvision:resnet50")


def test_unknown_names_are_told_what_there_is():
    with pytest.raises(
        ValueError, match=r"^keras:resnet18 is no known name; choose one of"
    ) as error:
        catalogue.find("keras:resnet18")
    assert "keras:resnet152_notop" in str(error.value) and "timm" not in str(error.value)
    with pytest.raises(ValueError, match="hub:resnet50 is no known name") as error:
        catalogue.find("hub:resnet50")
    assert all(name in str(error.value) for name in catalogue.ENTRIES)


@pytest.mark.parametrize(
    "model, message",
    [
        (Model(depth=34), "model.depth=50, and the configuration has 34; set model.depth=50"),
        (Model(depth=50), "model.variant=v1.5, and the configuration has v1; set model.variant"),
        (Model(depth=50, variant="v1.5", pool="caffe"), "set model.pool=symmetric"),
        (Model("cifar", 20), "set model.family=imagenet"),
        (Model(depth=50, residual=False), "set model.residual=true"),
    ],
)
def test_a_name_that_does_not_fit_is_refused_before_it_is_downloaded(model, message):
    with pytest.raises(ValueError, match=f"train.init_from=torchvision:resnet50 .*{message}"):
        catalogue.check("torchvision:resnet50", model)
