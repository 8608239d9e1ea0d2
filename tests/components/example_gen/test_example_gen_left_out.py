"""Files as they lie about: what is no image, what programs leave behind, how macOS spells names."""

import io
import os
import tarfile
import unicodedata
from dataclasses import replace

import pytest

from components.example_gen import ingest_summary, names, source
from components.example_gen.errors import SourceError, TooManyBadError
from components.example_gen.settings import Data
from components.example_gen.writing import index
from tests.components.example_gen.test_example_gen import (
    contents,
    found_classes,
    ingest,
    properties,
    quarantine,
    read,
    two_classes,
)
from tests.helpers import data

NO_IMAGES = {
    "train/ant/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "train/ant/desktop.ini": b"[.ShellClassInfo]",
    "train/ant/labels.csv": b"1.jpg,ant",
    "train/bee/1.XML": b"<annotation/>",
    "train/bee/notes.txt": b"note",
    "train/README": b"about",
    "val/bee/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "val/bee/movie.mp4": b"\0\0\0 ftyp",
}
BY_PRODUCTS = {
    "train/ant/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg": data.jpeg(900),
    "train/ant/@eaDir/2.jpg/SYNOPHOTO_THUMB_M.jpg": data.jpeg(901),
    "train/@eaDir/1.jpg": data.jpeg(902),
    "train/__MACOSX/ant/._1.jpg": b"\0\5\x16\7",
    "train/LOST+FOUND/1.jpg": data.jpeg(903),
    "train/#recycle/1.jpg": data.jpeg(904),
    "train/$RECYCLE.BIN/1.jpg": data.jpeg(905),
    "train/System Volume Information/x.jpg": data.jpeg(906),
    "train/.ipynb_checkpoints/1-checkpoint.jpg": data.jpeg(907),
    "train/bee/.@__thumb/1.jpg": data.jpeg(908),
    "train/bee/._1.jpg": b"\0\5\x16\7",
    "train/bee/deep/.cache/1.jpg": data.jpeg(909),
}


def write(folder, contents):
    for path, content in contents.items():
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        with open(os.path.join(folder, path), "wb") as stream:
            stream.write(content)
    return str(folder)


def flat(splits):
    return {
        f"{split}/{name}/{file}": content
        for split, classes in splits.items()
        for name, images in classes.items()
        for file, content in images.items()
    }


def three_ways(root, contents):
    """The same files as folders, as a tar of everything and as a tar a split."""
    folder = write(root / "folders", contents)
    whole = {f"./{path}": content for path, content in contents.items()}
    (root / "one.tar").write_bytes(data.tar_bytes(whole))
    (root / "tars").mkdir()
    for split in ("train", "val"):
        start = f"./{split}/"
        inner = {p.removeprefix(start): b for p, b in whole.items() if p.startswith(start)}
        (root / "tars" / f"{split}.tar").write_bytes(data.tar_bytes(inner))
    return folder, str(root / "one.tar"), str(root / "tars")


@pytest.mark.parametrize("more", [NO_IMAGES, BY_PRODUCTS])
def test_what_is_no_image_is_left_out_and_told(tmp_path, more):
    good = flat({"train": two_classes(6), "val": two_classes(3, 500)})
    for number, place in enumerate(three_ways(tmp_path, {**good, **more})):
        fields = {"kind": "folder", "source": place, "max_bad_images": 0, "max_bad_fraction": 0.0}
        assert found_classes(Data(**fields)) == ["ant", "bee"]
        uri = ingest(tmp_path / str(number), **fields).uri
        assert (len(read(uri, "train")), len(read(uri, "eval"))) == (12, 6)
        assert not quarantine(uri, "train") and not quarantine(uri, "eval")
        splits = ingest_summary.read_summary(uri)["splits"]
        told = splits["train"]["left_out"]
        # Those inside of a folder that is left out are not counted again.
        expected = {"train": 6, "eval": 2} if more is NO_IMAGES else {"train": 11, "eval": 0}
        assert {split: found["left_out"]["count"] for split, found in splits.items()} == expected
        assert len(told["names"]) == 3
        line = ingest_summary.describe(ingest_summary.read_summary(uri))
        assert (
            f"{sum(expected.values())} no images, left out ({', '.join(told['names'])}, ...)"
            in line
        )


def test_names_of_images_are_images_whatever_their_case():
    for name in (
        "a.JPG",
        "a.JPEG",
        "a.jfif",
        "a.Heic",
        "a.avif",
        "a.TIF",
        "a.webp",
        "b/a.ppm",
        "a",
    ):
        assert names.is_image(name)
    # Behind the dot is no suffix: the content decides.
    for name in ("St. Bernard 7", "scan.0001", "a.jpg?w=300", "a.jpg_large"):
        assert names.is_image(name) and not names.has_image_suffix(name)
    for name in (
        "a.csv",
        "Thumbs.db",
        "a.mp4",
        "a.jpg.txt",
        "a.jpg.xml",
        "README",
        "license",
        "a.zip",
    ):
        assert not names.is_image(name)


def test_without_a_suffix_the_content_decides(tmp_path):
    train = {"ant": {"1": data.jpeg(1), "2": data.png(2)}, "bee": {"1": data.jpeg(3), "2": b"text"}}
    folder = data.class_folders(str(tmp_path / "in"), {"train": train, "val": two_classes(2, 500)})
    uri = ingest(tmp_path, kind="folder", source=folder).uri
    assert set(contents(uri, "train")) == {"ant/1", "ant/2", "bee/1"}
    assert list(quarantine(uri, "train")) == ["bee/2"]


def test_an_image_suffix_with_other_content_is_bad(tmp_path):
    splits = {"train": two_classes(4), "val": two_classes(2, 500)}
    splits["train"]["ant"]["table.jpg"] = b"<html>404</html>"
    uri = ingest(
        tmp_path, kind="folder", source=data.class_folders(str(tmp_path / "in"), splits)
    ).uri
    assert list(quarantine(uri, "train")) == ["ant/table.jpg"]


def test_archives_of_ilsvrc_with_other_files(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path / "in"))
    path = os.path.join(folder, "ILSVRC2012_img_train.tar")
    with tarfile.open(path) as tar:
        classes = {m.name: tar.extractfile(m).read() for m in tar}
    first, _, third = sorted(classes)
    more = {
        "a.JPEG": data.jpeg(1),
        "Thumbs.db": b"x",
        "._a.JPEG": b"y",
        "@eaDir/a.JPEG": data.jpeg(2),
    }
    classes[first] = data.tar_bytes({**more, "more.tar": data.tar_bytes({"b.JPEG": data.jpeg(3)})})
    # As a disk of the eighties may have it.
    classes[third.replace(".tar", ".TAR")] = classes.pop(third)
    with open(path, "wb") as stream:
        stream.write(data.tar_bytes({**classes, "readme.txt": b"about"}))
    val = os.path.join(folder, "ILSVRC2012_img_val.tar")
    with tarfile.open(val) as tar:
        images = {m.name: tar.extractfile(m).read() for m in tar}
    with open(val, "wb") as stream:
        stream.write(data.tar_bytes({**images, "Thumbs.db": b"x"}))
    uri = ingest(tmp_path, kind="ilsvrc", source=folder).uri
    wnid = first.removesuffix(".tar")
    assert (
        len(ingest_summary.read_summary(uri)["classes"]) == 3
        and len(read(uri, "train")) == 1 + 8 + 8
    )
    assert list(quarantine(uri, "train")) == ["more.tar"]
    assert (
        "archive inside the archive of its class" in quarantine(uri, "train")["more.tar"]["reason"]
    )
    splits = ingest_summary.read_summary(uri)["splits"]
    told = splits["train"]["left_out"]
    assert told["count"] == 4 and told["names"] == [
        "readme.txt",
        f"{wnid}/Thumbs.db",
        f"{wnid}/._a.JPEG",
    ]
    assert splits["eval"]["left_out"] == {"count": 1, "names": ["Thumbs.db"]}


def test_two_archives_of_one_class_are_refused(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path))
    path = os.path.join(folder, "ILSVRC2012_img_train.tar")
    one = data.tar_bytes({"a.JPEG": data.jpeg(1)})
    for other in ("part-2/n00001000.tar", "n00001000.TAR", "./n00001000.tar"):
        with open(path, "wb") as stream:
            stream.write(data.tar_bytes({"n00001000.tar": one, "n00001007.tar": one, other: one}))
        with pytest.raises(
            SourceError, match=f"two archives of the class n00001000, .* and {other}: keep"
        ):
            index.build(source.find(Data(kind="ilsvrc", source=folder)), "train")


def test_a_compressed_class_archive_is_refused(tmp_path):
    folder = data.small_ilsvrc(str(tmp_path))
    one = data.tar_bytes({"a.JPEG": data.jpeg(1)})
    with open(os.path.join(folder, "ILSVRC2012_img_train.tar"), "wb") as stream:
        stream.write(data.tar_bytes({"n00001000.tar": one, "n00001007.tar.gz": b"\x1f\x8b"}))
    with pytest.raises(
        SourceError, match=r"holds n00001007\.tar\.gz, which is no plain tar: unpack it"
    ):
        index.build(source.find(Data(kind="ilsvrc", source=folder)), "train")


@pytest.mark.parametrize(
    "name", ["train/../1.jpg", "../train/ant/9.jpg", "train/ant/../../../x.jpg"]
)
def test_a_path_that_leads_up_is_refused(tmp_path, name):
    good = flat({"train": two_classes(3), "val": two_classes(2, 500)})
    path = tmp_path / "photos.tar"
    path.write_bytes(data.tar_bytes({**good, name: data.jpeg(1)}))
    with pytest.raises(
        SourceError, match=r"photos\.tar has .*, a path with \.\.: pack it by its plain name"
    ):
        source.check(Data(kind="folder", source=str(path)))


def test_a_tar_with_capitals_is_a_tar(tmp_path):
    good = flat({"train": two_classes(3), "val": two_classes(2, 500)})
    (tmp_path / "PHOTOS.TAR").write_bytes(data.tar_bytes(good))
    (tmp_path / "train.TAR").write_bytes(
        data.tar_bytes(
            {p.removeprefix("train/"): b for p, b in good.items() if p.startswith("train/")}
        )
    )
    for place in (tmp_path / "PHOTOS.TAR", tmp_path):
        source.check(Data(kind="folder", source=str(place)))


def test_accents_of_macos_are_the_same_class(tmp_path):
    spelt = {form: unicodedata.normalize(form, "café") for form in ("NFC", "NFD")}
    assert spelt["NFC"] != spelt["NFD"]
    splits = {"train": {spelt["NFD"]: {"1.jpg": data.jpeg(1)}, "bar": {"1.jpg": data.jpeg(2)}}}
    splits["val"] = {spelt["NFC"]: {"2.jpg": data.jpeg(3)}, "bar": {"2.jpg": data.jpeg(4)}}
    for number, place in enumerate(three_ways(tmp_path, flat(splits))):
        config = {"kind": "folder", "source": place}
        source.check(Data(**config))
        uri = ingest(tmp_path / str(number), **config).uri
        assert ingest_summary.read_summary(uri)["classes"] == ["bar", spelt["NFC"]]
        labels = [sorted(e["image/class/label"] for e in read(uri, s)) for s in ("train", "eval")]
        assert labels == [[0, 1], [0, 1]] and not quarantine(uri, "eval")


def test_a_class_that_the_splits_spell_in_two_ways_is_refused(tmp_path):
    images = {"1.jpg": data.jpeg(1)}
    for train, val in (("Red", "red"), ("red", "red ")):
        splits = {"train": {train: images, "blue": images}, "val": {val: images, "blue": images}}
        for place in three_ways(tmp_path / train, flat(splits)):
            with pytest.raises(
                SourceError, match=rf"class folder {val}, and train has {train}: give them"
            ):
                source.check(Data(kind="folder", source=place))
    # Letters: both are classes.
    letters = dict.fromkeys(("A", "a"), images)
    folder = data.class_folders(str(tmp_path / "letters"), {"train": letters, "val": letters})
    source.check(Data(kind="folder", source=folder))


def test_a_class_folder_without_images_is_refused_or_left_out(tmp_path):
    good = flat({"train": two_classes(4), "val": two_classes(2, 500)})
    more = {"train/blue/notes.txt": b"none yet", "val/blue/1.jpg": data.jpeg(9)}
    for number, place in enumerate(three_ways(tmp_path, {**good, **more})):
        fields = {"kind": "folder", "source": place}
        with pytest.raises(
            SourceError,
            match=(
                r"without an image of their own \(blue\): put .* data\.allow_missing_classes=true"
            ),
        ):
            source.check(Data(**fields))
        fields |= {"allow_missing_classes": True, "max_bad_images": 0}
        source.check(Data(**fields))
        uri = ingest(tmp_path / str(number), **fields).uri
        assert ingest_summary.read_summary(uri)["classes"] == ["ant", "bee"] and not quarantine(
            uri, "eval"
        )
        left_out = {s: f["left_out"] for s, f in ingest_summary.read_summary(uri)["splits"].items()}
        prefix = "train/" if number == 1 else ""
        assert left_out["train"] == {"count": 1, "names": [f"{prefix}blue/notes.txt"]}
        assert left_out["eval"] == {"count": 1, "names": ["blue/1.jpg"]}
    os.makedirs(tmp_path / "folders" / "train" / "empty")
    os.makedirs(tmp_path / "folders" / "train" / "nested" / "below")
    write(tmp_path / "folders", {"train/nested/below/1.jpg": data.jpeg(1)})
    # Classes are looked up once a process.
    os.rename(tmp_path / "folders", tmp_path / "again")
    with pytest.raises(SourceError, match=r"\(blue, empty, nested\)"):
        source.check(Data(kind="folder", source=str(tmp_path / "again")))


def test_a_normal_folder_passes(tmp_path):
    """Of a telephone and a computer: some things are in the wrong place, and one file is damaged."""
    good = flat({"train": two_classes(20), "val": two_classes(3, 500)})
    more = {
        "train/ant/holiday/1.jpg": data.jpeg(700), "train/ant/holiday/2.jpg": data.jpeg(701),
        "train/ant/notes.txt": b"note", "train/bee/Thumbs.db": b"x", "train/bee/IMG_1.HEIC": b"no image",
        "val/bee/bad.jpg": data.truncated(), "val/ant/.DS_Store": b"Bud1",
    }  # fmt: skip
    for number, place in enumerate(three_ways(tmp_path, {**good, **more})):
        uri = ingest(tmp_path / str(number), kind="folder", source=place).uri
        line = ingest_summary.describe(ingest_summary.read_summary(uri))
        assert line.startswith("40 train, 6 eval, 4 quarantined, 0 MB, 3 no images, left out (")


def test_all_splits_are_told_at_once_with_what_lets_them_pass(tmp_path):
    splits = {"train": two_classes(20), "val": two_classes(10, 500)}
    for split, number in (("train", 8), ("val", 5)):
        splits[split]["ant"] |= {f"bad{i}.jpg": b"bad" for i in range(number)}
    folder = data.class_folders(str(tmp_path / "in"), splits)
    fields = {"kind": "folder", "source": folder}
    with pytest.raises(TooManyBadError) as error:
        ingest(tmp_path, **fields)
    text = str(error.value)
    assert "13 of 73 images cannot be used (8 of 48 in train, 5 of 25 in eval; 17.8%" in text
    assert "ant/bad0.jpg" in text and "quarantine-train.jsonl and " in text
    wanted = float(text.split("--set data.max_bad_fraction=")[1].rstrip("."))
    assert (
        len(read(ingest(tmp_path, execution=2, **fields, max_bad_fraction=wanted).uri, "train"))
        == 40
    )
    assert len(read(ingest(tmp_path, execution=3, **fields, max_bad_images=13).uri, "train")) == 40


def test_few_bad_images_pass_but_no_quarter_and_no_split(tmp_path):
    few = {"train": two_classes(3), "val": two_classes(1, 500)}
    few["train"]["ant"]["bad.jpg"] = few["train"]["ant"]["bad2.jpg"] = b"bad"
    folder = data.class_folders(str(tmp_path / "few"), few)
    assert len(quarantine(ingest(tmp_path, kind="folder", source=folder).uri, "train")) == 2
    few["train"]["bee"]["bad.jpg"] = few["train"]["bee"]["bad2.jpg"] = b"bad"
    folder = data.class_folders(str(tmp_path / "many"), few)
    with pytest.raises(TooManyBadError, match="4 of 12 images cannot be used"):
        ingest(tmp_path, execution=2, kind="folder", source=folder)
    lost = {"train": two_classes(9), "val": {"ant": {"bad.jpg": b"bad"}}}
    folder = data.class_folders(str(tmp_path / "lost"), lost)
    with pytest.raises(
        TooManyBadError, match=r"1 of 19 .* or remove them: no image of eval is left"
    ):
        ingest(tmp_path, execution=3, kind="folder", source=folder, max_bad_fraction=1.0)


def test_classes_that_train_lacks_are_told_with_their_setting(tmp_path):
    splits = {"train": two_classes(4), "val": {**two_classes(2, 500), "wasp": {}}}
    splits["val"]["wasp"] = {f"{i}.jpg": data.jpeg(700 + i) for i in range(6)}
    fields = {"kind": "folder", "source": data.class_folders(str(tmp_path / "in"), splits)}
    with pytest.raises(
        TooManyBadError, match=r"6 of 10 in eval.*--set data\.allow_missing_classes=true leaves"
    ):
        ingest(tmp_path, **fields)
    uri = ingest(tmp_path, execution=2, **fields, allow_missing_classes=True).uri
    assert len(read(uri, "eval")) == 4 and not quarantine(uri, "eval")
    assert ingest_summary.read_summary(uri)["splits"]["eval"]["left_out"]["count"] == 6


def test_the_cache_key_follows_what_may_be_missing(tmp_path):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(3), "val": two_classes(2, 500)}
    )
    config = Data(kind="folder", source=folder)
    assert properties(replace(config, allow_missing_classes=True)) != properties(config)
    assert properties(replace(config, max_bad_images=3)) != properties(config)


def test_links_and_their_names(tmp_path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, link in (
            ("ant/1.jpg", ""),
            ("bee/1.jpg", ""),
            ("ant/old.lnk", "1.jpg"),
            ("ant/2.jpg", "1.jpg"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            content = b"" if link else data.jpeg(len(name))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "train.tar").write_bytes(out.getvalue())
    left_out = names.LeftOut()
    where = source.find(Data(kind="folder", source=str(tmp_path)))
    rows = index.build(where, "train", skip=left_out.add).to_pylist()
    assert {row["name"]: bool(row["reason"]) for row in rows} == {
        "ant/1.jpg": False, "ant/2.jpg": True, "bee/1.jpg": False,
    }  # fmt: skip
    assert left_out.told() == {"count": 1, "names": ["ant/old.lnk"]}


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path):
    folder = data.class_folders(
        str(tmp_path / "in"), {"train": two_classes(3), "val": two_classes(2, 500)}
    )
    for name in (b"train/ant/Icon\r", b"train/bee/\x1b[2J.txt", b"train/bee/caf\xe9.txt"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as stream:
            stream.write(b"x")
    report = ingest_summary.read_summary(ingest(tmp_path, kind="folder", source=folder).uri)
    told = report["splits"]["train"]["left_out"]
    assert told == {"count": 3, "names": ["ant/Icon\\r", "bee/\\x1b[2J.txt", "bee/caf\\xe9.txt"]}
    assert ingest_summary.describe(report).isprintable()


def test_what_lies_beside_the_splits_of_a_tar_is_told_with_train(tmp_path):
    good = flat({"train": two_classes(5), "val": two_classes(2, 500)})
    more = {
        "README": b"about",
        "sheet.jpg": data.jpeg(1),
        ".DS_Store": b"x",
        "test/ant/1.jpg": data.jpeg(2),
    }
    (tmp_path / "one.tar").write_bytes(data.tar_bytes({**good, **more}))
    uri = ingest(tmp_path, kind="folder", source=str(tmp_path / "one.tar")).uri
    assert {n: q["reason"] for n, q in quarantine(uri, "train").items()} == {
        "sheet.jpg": "lies in no class folder"
    }
    splits = ingest_summary.read_summary(uri)["splits"]
    assert splits["train"]["left_out"]["count"] == 2 and splits["eval"]["left_out"]["count"] == 0
    assert (len(read(uri, "train")), len(read(uri, "eval")), len(quarantine(uri, "eval"))) == (
        10,
        4,
        0,
    )
