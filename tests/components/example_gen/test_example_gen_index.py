"""Archives: what the index says equals what tarfile extracts; damage is one clear sentence."""

import gzip
import io
import os
import subprocess
import tarfile
import tracemalloc

import pytest

from components.example_gen import source
from components.example_gen.errors import SourceError
from components.example_gen.settings import Data
from components.example_gen.sources import devkit, ilsvrc, tar_index
from components.example_gen.writing import index
from components.report.counting import first_synonyms
from tests.components.example_gen.test_example_gen import found_classes, found_labels, properties
from tests.helpers import data


def _bytes(path, member):
    with open(path, "rb") as stream:
        stream.seek(member.offset)
        return stream.read(member.size)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_offsets_are_where_tarfile_reads(tmp_path, format):
    long = "d/" + "x" * (60 if format == tarfile.USTAR_FORMAT else 180) + "ä.jpg"
    contents = {
        "a/b.jpg": b"1" * 700,
        long: b"2" * 512,
        "empty.jpg": b"",
        "._a": b"resource fork",
        "z": b"3",
    }
    path = tmp_path / "a.tar"
    path.write_bytes(data.tar_bytes(contents, format))
    found = {m.name: _bytes(path, m) for m in tar_index.members(str(path))}
    with tarfile.open(path) as tar:
        expected = {m.name: tar.extractfile(m).read() for m in tar if not m.name.startswith("._")}
    assert found == expected and long in found


def _header(**fields):
    """A header block with these fields; the checksum is right unless it is given."""
    info = tarfile.TarInfo("a/b.jpg")
    info.size = 700
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    places = {"name": 0, "size": 124, "chksum": 148, "type": 156, "magic": 257, "prefix": 345}
    for field, content in fields.items():
        block[places[field] : places[field] + len(content)] = content
    if "chksum" not in fields:
        block[148:156] = b"%06o\0 " % tarfile.calc_chksums(block)[0]
    return bytes(block)


def test_links_are_followed_or_named(tmp_path):
    image, out = b"picture" * 100, io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, target in (
            ("./a/1.jpg", tarfile.REGTYPE, ""),
            ("./b/1.jpg", tarfile.LNKTYPE, "./a/1.jpg"),
            ("./b/2.jpg", tarfile.LNKTYPE, "./gone.jpg"),
            ("./b/3.jpg", tarfile.SYMTYPE, "../a/1.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = (
                kind,
                target,
                len(image) * (kind == tarfile.REGTYPE),
            )
            tar.addfile(info, io.BytesIO(image))
    path = tmp_path / "train.tar"
    path.write_bytes(out.getvalue())
    found = {m.name: m for m in tar_index.members(str(path))}
    assert _bytes(path, found["./b/1.jpg"]) == _bytes(path, found["./a/1.jpg"]) == image
    where = source.find(Data(kind="folder", source=str(tmp_path), eval_split="holdout"))
    rows = {r["name"]: r for r in index.build(where, "train").to_pylist()}
    assert [rows[n]["reason"] for n in ("a/1.jpg", "b/1.jpg")] == ["", ""] and rows["b/1.jpg"][
        "label"
    ] == 1
    assert "hard link to ./gone.jpg, which" in rows["b/2.jpg"]["reason"]
    assert "a symbolic link" in rows["b/3.jpg"]["reason"]


def test_images_beside_the_class_archives_are_named(tmp_path):
    tars = {f"n0000000{i}.tar": data.tar_bytes({"1.JPEG": data.jpeg(i)}) for i in range(2)}
    (tmp_path / "train.tar").write_bytes(
        data.tar_bytes({**tars, "x.JPEG": data.jpeg(3), "README": b""})
    )
    left_out = []
    where = ilsvrc.Ilsvrc(str(tmp_path), "train.tar", "")
    groups = {synset: found for _, synset, found in where.groups("train", left_out.append)}
    assert left_out == ["README"]
    assert [(name, reason) for name, _, _, reason in groups[""]] == [
        ("x.JPEG", "lies in no class folder")
    ]
    assert list(groups) == ["", "n00000000", "n00000001"]


def test_offsets_in_class_archives_are_absolute(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path))
    path = os.path.join(folder, "ILSVRC2012_img_train.tar")
    tars = tar_index.class_tars(path)
    found = {
        m.name: _bytes(path, m) for _, ms in tar_index.members_of_classes(path, tars) for m in ms
    }
    expected = {}
    with tarfile.open(path) as outer:
        for class_tar in outer:
            with tarfile.open(fileobj=io.BytesIO(outer.extractfile(class_tar).read())) as inner:
                expected |= {m.name: inner.extractfile(m).read() for m in inner}
    assert found == expected and len(found) == 24


def test_no_payload_is_read(tmp_path, monkeypatch):
    path = tmp_path / "big.tar"
    path.write_bytes(data.tar_bytes({f"{i}.jpg": bytes(100_000) for i in range(10)}))
    taken = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            taken.append(len(content := super().read(size)))
            return content

    monkeypatch.setattr(tar_index.files, "open_read", Counted)
    assert len(list(tar_index.members(str(path)))) == 10
    assert sum(taken) < 20_000


@pytest.mark.parametrize("cut", [0, 100, 700, 1536, 2100, 2560, 5000])
def test_a_truncated_archive_is_an_error(tmp_path, cut):
    whole = data.tar_bytes({"a.jpg": b"a" * 600, "b.jpg": b"b" * 600, "c.jpg": b"c" * 600})
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[:cut])
    with pytest.raises(SourceError, match=r"cut\.tar is truncated, compressed or damaged"):
        list(tar_index.members(str(path)))


def test_a_damaged_header_is_an_error(tmp_path):
    whole = bytearray(data.tar_bytes({"a.jpg": b"a" * 600, "b.jpg": b"b" * 600}))
    whole[1536 + 20] ^= 0xFF
    path = tmp_path / "damaged.tar"
    path.write_bytes(whole)
    with pytest.raises(SourceError, match="no tar header at byte 1536"):
        list(tar_index.members(str(path)))


@pytest.mark.parametrize("size", [-512, -1024, -1536, -5])
@pytest.mark.parametrize("pax", [False, True])
def test_a_negative_size_leads_nowhere(tmp_path, size, pax):
    """Back to the same file, for ever, or to what is no header."""
    start = data.tar_bytes({"a.jpg": b"a" * 600})[:1536]
    if pax:
        info = tarfile.TarInfo("b.jpg")
        info.pax_headers = {"size": str(size)}
        header = info.tobuf(tarfile.PAX_FORMAT)
    else:
        header = _header(size=(256**12 + size).to_bytes(12, "big"))
    path = tmp_path / "back.tar"
    path.write_bytes(start + header + bytes(10240))
    found = []
    with pytest.raises(SourceError, match=r"back\.tar is truncated, compressed or damaged"):
        for member in tar_index.members(str(path)):
            found.append(member.name)
            assert found == ["a.jpg"]


def test_headers_that_never_end_are_an_error(tmp_path):
    path = tmp_path / "long.tar"
    path.write_bytes(_header(type=b"L", size=b"00000000001\0").ljust(1024, b"x") * 3000)
    with pytest.raises(SourceError, match=r"long\.tar is truncated, compressed or damaged"):
        list(tar_index.members(str(path)))
    with open(path, "wb") as stream:
        stream.write(_header(type=b"L", size=b"77777777777\0"))
        stream.truncate(2**33)
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"long\.tar is truncated, compressed or damaged"):
        list(tar_index.members(str(path)))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    "behind", [bytes(2**21), bytes(512) + b"more", data.tar_bytes({"c.jpg": b"c" * 600})]
)
def test_what_follows_the_end_is_not_lost_silently(tmp_path, behind):
    """A download whose space was reserved has zeros for what has not come yet."""
    path = tmp_path / "in-part.tar"
    path.write_bytes(data.tar_bytes({"a.jpg": b"a" * 600, "b.jpg": b"b" * 600}) + behind)
    with pytest.raises(
        SourceError, match=r"in-part\.tar is .* \(it ends at byte 3072, and more follows\)"
    ):
        list(tar_index.members(str(path)))


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_files_that_are_stored_in_pieces_are_named(tmp_path, format):
    (tmp_path / "a").mkdir()
    with open(tmp_path / "a" / "holes.bmp", "wb") as stream:
        stream.write(b"BM")
        stream.seek(10**6)
        stream.write(b"end")
    os.link(tmp_path / "a" / "holes.bmp", tmp_path / "a" / "link.bmp")
    (tmp_path / "a" / "whole.bmp").write_bytes(b"BM")
    path = str(tmp_path / "a.tar")
    command = ["tar", "--create", "--sparse", f"--format={format}", f"--file={path}", "a/holes.bmp"]
    subprocess.run([*command, "a/link.bmp", "a/whole.bmp"], cwd=tmp_path, check=True)
    found = {os.path.basename(m.name): m for m in tar_index.members(path)}
    assert _bytes(path, found["whole.bmp"]) == b"BM" and not found["whole.bmp"].reason
    for name in ("holes.bmp", "link.bmp"):
        assert "pack it without tar --sparse" in found[name].reason


def test_a_truncated_training_archive_stops_the_check(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path))
    path = os.path.join(folder, "ILSVRC2012_img_train.tar")
    with open(path, "r+b") as stream:
        stream.truncate(os.path.getsize(path) // 2)
    with pytest.raises(SourceError, match="truncated"):
        source.check(Data(kind="ilsvrc", source=folder))


def test_devkit_ids_are_not_the_order_of_wnids(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path))
    kit = devkit.load(os.path.join(folder, "ILSVRC2012_devkit_t12.tar.gz"))
    assert [kit.wnids[i] for i in (1, 2, 3)] == ["n00001007", "n00001014", "n00001000"]
    assert set(kit.wnids) == {1, 2, 3}  # the inner synset is no class
    # 12 images, the classes in turn.
    assert kit.wnid("ILSVRC2012_val_00000004.JPEG") == "n00001000"
    for name in ("cat.JPEG", "ILSVRC2012_val_00000013.JPEG", "ILSVRC2012_val_00000000.JPEG"):
        with pytest.raises(SourceError, match="no ground truth"):
            kit.wnid(name)


def test_no_changed_bit_of_a_devkit_passes(tmp_path):
    path = os.path.join(data.small_ilsvrc(str(tmp_path)), "ILSVRC2012_devkit_t12.tar.gz")
    with open(path, "rb") as stream:
        whole = stream.read()
    for at in range(10, len(whole), 5):  # before that is gzip's header, with the time
        damaged = bytearray(whole)
        damaged[at] ^= 16
        with open(path, "wb") as stream:
            stream.write(damaged)
        with pytest.raises(SourceError, match="download it again"):
            devkit.load(path)


@pytest.mark.parametrize(
    "name, content", [(devkit.META, b"no matrix"), (devkit.TRUTH, b"1\n<html>\n")]
)
def test_a_devkit_of_other_files_is_an_error(tmp_path, name, content):
    path = os.path.join(data.small_ilsvrc(str(tmp_path)), "ILSVRC2012_devkit_t12.tar.gz")
    kit = {**devkit._extract(path), name: content}
    with open(path, "wb") as stream:
        stream.write(gzip.compress(data.tar_bytes(kit)))
    with pytest.raises(SourceError, match=r"is not that of ILSVRC2012 .*: download it again"):
        devkit.load(path)


def test_classes_and_labels(tmp_path):
    config = Data(kind="ilsvrc", source=data.small_ilsvrc(str(tmp_path)))
    source.check(config)
    assert found_classes(config) == ["n00001000", "n00001007", "n00001014"]
    assert found_labels(config)[1] == "name of n00001007"


def test_classes_with_the_same_words_are_told_apart(tmp_path):
    """As ImageNet's two cranes, its two maillots."""
    words = {
        "n1": "crane",
        "n2": "crane",
        "n3": "maillot",
        "n4": "maillot, tank suit",
        "n5": "dog, hound",
    }
    train = {wnid: {f"{wnid}_1.JPEG": data.jpeg(i)} for i, wnid in enumerate(words)}
    data.ilsvrc(str(tmp_path), train, [("n1", data.jpeg(9))], words=words)
    labels = found_labels(Data(kind="ilsvrc", source=str(tmp_path)))
    assert labels == ["crane (n1)", "crane (n2)", "maillot", "maillot, tank suit", "dog, hound"]
    assert first_synonyms(labels) == [
        "crane (n1)",
        "crane (n2)",
        "maillot",
        "maillot, tank suit",
        "dog",
    ]


@pytest.mark.parametrize("form", ["tar", "tgz", "folder", "folder of the archive"])
def test_a_devkit_in_another_form_is_the_same(tmp_path, form):
    config = Data(kind="ilsvrc", source=data.small_ilsvrc(str(tmp_path)))
    expected = found_labels(config), devkit.load(str(tmp_path / "ILSVRC2012_devkit_t12.tar.gz"))
    packed = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    folder = tmp_path / "ILSVRC2012_devkit_t12"
    if form == "tar":
        folder.with_suffix(".tar").write_bytes(gzip.decompress(packed.read_bytes()))
    elif form == "tgz":
        packed.rename(folder.with_suffix(".tgz"))
    else:
        inside = folder / "data" if form == "folder" else folder
        inside.mkdir(parents=True)
        for name, content in devkit._extract(str(packed)).items():
            (inside / name).write_bytes(content)
    packed.unlink(missing_ok=True)
    where = source.find(config)
    assert where.devkit.startswith(str(folder))
    assert (found_labels(config), devkit.load(where.devkit)) == expected
    before = properties(config)["input_fingerprint"]
    if os.path.isdir(where.devkit):
        truth = os.path.join(where.devkit, devkit.TRUTH)
        with open(truth, "a") as stream:
            stream.write("1\n")
        assert properties(config)["input_fingerprint"] != before
        os.remove(truth)
        with pytest.raises(SourceError, match="lacks ILSVRC2012_validation_ground_truth"):
            devkit.load(where.devkit)


def test_latest_span_is_taken(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "ilsvrc"))
    for span, classes in (("2", 3), ("10", 4)):
        data.small_ilsvrc(str(tmp_path / "ilsvrc" / f"span-{span}"), classes)
    config = Data(
        kind="ilsvrc",
        source=folder,
        train_split="span-{SPAN}/ILSVRC2012_img_train.tar",
        eval_split="span-{SPAN}/ILSVRC2012_img_val.tar",
    )
    assert len(found_classes(config)) == 4


def test_missing_parts_are_named(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path))
    os.remove(os.path.join(folder, "ILSVRC2012_img_val.tar"))
    with pytest.raises(
        SourceError, match=r"lacks ILSVRC2012_img_val.tar: .* data.eval_split=holdout"
    ):
        source.check(Data(kind="ilsvrc", source=folder))
    source.check(Data(kind="ilsvrc", source=folder, eval_split="holdout"))
    with pytest.raises(SourceError, match="has no train/ folder"):
        source.check(Data(kind="folder", source=folder))
    with pytest.raises(SourceError, match=r"data\.source must name"):
        source.check(Data(kind="folder"))
    with pytest.raises(SourceError, match="is not a folder"):
        source.check(Data(kind="folder", source=folder + "/nothing"))
    with pytest.raises(SourceError, match="gunzip"):
        source.check(Data(kind="folder", source=folder + "/x.tar.gz"))
    with pytest.raises(SourceError, match=r"data\.kind must be one of"):
        source.check(Data(kind="nothing", source=folder))


def test_what_cannot_be_read_is_named(tmp_path):
    # TensorFlow has no file system for s3:// here.
    for fields in (
        {"kind": "ilsvrc", "source": "s3://bucket/a"},
        {"source": "s3://bucket/a-{SPAN}"},
    ):
        with pytest.raises(
            SourceError, match=r"data\.source=s3://bucket/a.* cannot be read: .*'s3'"
        ):
            source.check(Data(**{"kind": "folder", **fields}))
    folder = data.small_ilsvrc(str(tmp_path))
    os.remove(os.path.join(folder, "ILSVRC2012_img_train.tar"))
    os.mkdir(os.path.join(folder, "ILSVRC2012_img_train.tar"))
    with pytest.raises(
        SourceError, match=f"data.source={folder} cannot be read: .* Is a directory"
    ):
        source.check(Data(kind="ilsvrc", source=folder))


def test_a_devkit_of_other_classes_is_an_error(tmp_path):
    a = data.small_ilsvrc(str(tmp_path / "a"), 3)
    b = data.small_ilsvrc(str(tmp_path / "b"), 4)
    os.replace(a + "/ILSVRC2012_devkit_t12.tar.gz", b + "/ILSVRC2012_devkit_t12.tar.gz")
    with pytest.raises(SourceError, match="has no class n00001021"):
        found_labels(Data(kind="ilsvrc", source=b))


def test_folders_and_their_splits(tmp_path):
    images = {"cat": {"1.jpg": data.jpeg(1)}, "dog": {"1.png": data.png(2)}}
    folder = data.class_folders(
        str(tmp_path), {"train": images, "validation": images, "other": images}
    )
    found = source.find(Data(kind="folder", source=folder))
    assert (found.train, found.eval) == ("train/*/*", "validation/*/*")
    assert found_classes(Data(kind="folder", source=folder)) == ["cat", "dog"]
    assert source.find(Data(kind="folder", source=folder, eval_split="other")).eval == "other/*/*"
    assert source.find(Data(kind="folder", source=folder, eval_split="holdout")).eval == ""
    with pytest.raises(SourceError, match="has no missing/ folder"):
        source.find(Data(kind="folder", source=folder, eval_split="missing"))
