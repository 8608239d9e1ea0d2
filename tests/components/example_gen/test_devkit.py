"""ILSVRC's development kit: what it says of the validation images, and every way in which it may be
wrong.
"""

import gzip
import io

import numpy as np
import pytest
import scipy.io

from components.example_gen.errors import SourceError
from components.example_gen.sources import devkit
from tests.helpers import data

FOLDER = "ILSVRC2012_devkit_t12/data"
META = np.array(
    [
        (2, "n02", "ant, pismire", 0),
        (1, "n01", "bee", 0),
        (3, "n03", "insect", 2),  # an inner synset
    ],
    dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")],
)


def meta(rows=META):
    out = io.BytesIO()
    scipy.io.savemat(out, {"synsets": rows})
    return out.getvalue()


def archive(path, truth=b"2\n1\n1\n", rows=META, **changes):
    """A kit; changes are members by name, None takes one out."""
    members = {
        "meta.mat": meta(rows),
        "ILSVRC2012_validation_ground_truth.txt": truth,
        "readme.txt": b"x",
    }
    members = {
        f"{FOLDER}/{name}": content
        for name, content in {**members, **changes}.items()
        if content is not None
    }
    path.write_bytes(gzip.compress(data.tar_bytes(members)))
    return str(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kit.tar.gz"


def test_the_kit_is_read(path):
    kit = devkit.load(archive(path))
    assert kit.wnids == {1: "n01", 2: "n02"}
    assert kit.words == {"n01": "bee", "n02": "ant, pismire"}
    assert kit.truth == [2, 1, 1]
    assert all(type(number) is int for number in (*kit.truth, *kit.wnids))


def test_a_kit_of_one_class_is_read(path):
    assert devkit.load(archive(path, b"2\n", META[:1])).wnids == {2: "n02"}


@pytest.mark.parametrize("number, wnid", [(1, "n02"), (2, "n01"), (3, "n01")])
def test_images_have_the_class_of_their_line(path, number, wnid):
    kit = devkit.load(archive(path))
    assert kit.wnid(f"ILSVRC2012_val_{number:08d}.JPEG") == wnid
    assert kit.wnid(f"val_00000009_{number:08d}.jpg") == wnid


@pytest.mark.parametrize(
    "name",
    [
        "cat.JPEG",
        "ILSVRC2012_val_00000000.JPEG",
        "ILSVRC2012_val_00000004.JPEG",
        "val_1.JPEG",
        "_00000001.a.b",
    ],
)
def test_an_image_that_has_no_line_is_named(path, name):
    kit = devkit.load(archive(path))
    with pytest.raises(SourceError) as caught:
        kit.wnid(name)
    assert (
        str(caught.value) == f"The validation image {name} has no ground truth: names must be like"
        " ILSVRC2012_val_00000001.JPEG, numbers 1 to 3."
    )


def test_ids_without_a_class_are_named(path):
    with pytest.raises(SourceError) as caught:
        devkit.load(archive(path, b"1 9 3 8 7 6 5 4 3\n"))
    assert (
        str(caught.value)
        == f"The ground truth of {path} has ids that meta.mat has no class for: [3, 4, 5, 6, 7]."
    )


@pytest.mark.parametrize("name", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
def test_a_file_that_is_missing_is_named(path, name):
    with pytest.raises(SourceError) as caught:
        devkit.load(archive(path, **{name: None}))
    assert (
        str(caught.value)
        == f"{path} lacks {name}: it is not the ILSVRC2012 development kit (task 1 and 2)."
    )


@pytest.mark.parametrize("changes", [{"meta.mat": b"no matrix"}, {"truth": b"1\n<html>\n"}])
def test_a_file_of_another_kind_is_named(path, changes):
    with pytest.raises(SourceError) as caught:
        devkit.load(archive(path, **changes))
    message = str(caught.value)
    assert message.startswith(
        f"{path}: meta.mat or ILSVRC2012_validation_ground_truth.txt is not that of ILSVRC2012 ("
    )
    assert message.endswith("): download it again.") and caught.value.__cause__ is not None
    assert str(caught.value.__cause__) in message


def test_a_folder_in_the_place_of_a_file_is_no_file(path):
    """As an archive of an unpacked kit may hold it."""
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("meta.mat")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    path.write_bytes(out.getvalue())
    with pytest.raises(SourceError, match=r"lacks meta.mat"):
        devkit.load(str(path))


def test_damage_anywhere_is_noticed(path):
    whole = bytearray((archive(path), path.read_bytes())[1])
    for at in [
        *range(10, len(whole), 61),
        len(whole) - 8,
        len(whole) - 1,
    ]:  # before that: gzip's time
        whole[at] ^= 16
        path.write_bytes(whole)
        whole[at] ^= 16
        with pytest.raises(SourceError, match="download it again"):
            devkit.load(str(path))
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError) as caught:
            devkit.load(str(path))
        assert (
            str(caught.value).startswith(f"{path} is damaged (")
            and caught.value.__cause__ is not None
        )


def test_a_changed_bit_behind_the_last_file_is_noticed(path):
    """Where only gzip's checksum tells."""
    members = {f"{FOLDER}/{devkit.META}": meta(), f"{FOLDER}/{devkit.TRUTH}": b"1\n"}
    whole = bytearray(gzip.compress(data.tar_bytes({**members, "last": bytes(3_000_000)}), 0))
    whole[-2_000_000] ^= 1
    path.write_bytes(whole)
    with pytest.raises(SourceError, match=r"is damaged \(CRC check failed"):
        devkit.load(str(path))


def test_a_kit_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="nothing is damaged"):
        devkit.load(str(tmp_path / "nothing"))
