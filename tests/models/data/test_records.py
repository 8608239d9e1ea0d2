"""Records read where they lie, against TensorFlow's reader and parser."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from models.data import records

KEYS = (records.IMAGE_KEY, records.LABEL_KEY)


def example(image, label, **others):
    """A serialized tf.Example; others are bytes, whole numbers or lists of floats."""
    whole = tf.train.Example()
    feature = whole.features.feature
    for key, value in {KEYS[0]: image, KEYS[1]: label, **others}.items():
        if isinstance(value, bytes):
            feature[key].bytes_list.value.append(value)
        elif isinstance(value, int):
            feature[key].int64_list.value.append(value)
        elif value is not None:
            feature[key].float_list.value.extend(value)
    return whole.SerializeToString()


def write(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for serialized in examples:
            writer.write(serialized)
    return str(path)


def everything(files):
    """Images and labels in the order of the files."""
    opened, found = records.Files(files), []
    for number in range(len(files)):
        at = 0
        while True:
            places, at = opened.places(number, at)
            assert places.dtype == np.int64 and places.shape[1:] == (3,) and len(places) <= 256
            if not len(places):
                break
            found += [(bytes(image), label) for image, label in map(opened.read, places)]
    return found


def test_all_records_of_all_files_are_found(tmp_path):
    sizes = (0, 1, 256, 700)
    expected = [[(os.urandom(number % 50 + 1), number) for number in range(size)] for size in sizes]
    files = [
        write(tmp_path / str(i), [example(*one) for one in some]) for i, some in enumerate(expected)
    ]
    assert everything(files) == [one for some in expected for one in some]


others = st.dictionaries(
    st.text(max_size=20),
    st.one_of(
        st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1), st.lists(st.floats(width=32))
    ),
    max_size=6,
).filter(lambda found: not set(found) & set(KEYS))


@given(st.binary(min_size=1, max_size=70_000), st.integers(-(2**63), 2**63 - 1), others)
def test_examples_are_parsed_as_tensorflow_does(image, label, more):
    serialized = example(image, label, **more)
    spec = {
        KEYS[0]: tf.io.FixedLenFeature([], tf.string),
        KEYS[1]: tf.io.FixedLenFeature([], tf.int64),
    }
    expected = tf.io.parse_single_example(serialized, spec)
    found, number = records.parse(serialized)
    assert bytes(found) == expected[KEYS[0]].numpy() == image
    assert number == expected[KEYS[1]].numpy() == label


NAME, LABEL_7 = b"\x0a\x11image/class/label", b"\x1a\x03\x0a\x01\x07"


def with_entry(entry, label=None):
    """An Example with another Features field of one entry, as serialized Examples may be joined."""
    more = b"\x0a" + bytes([len(entry)]) + entry
    return example(b"image", label) + b"\x0a" + bytes([len(more)]) + more


@pytest.mark.parametrize(
    "entry, label",
    [
        (NAME + b"\x12\x05" + LABEL_7, None),
        (b"\x12\x05" + LABEL_7 + NAME, None),  # value before key
        (NAME + b"\x12\x04\x1a\x02\x08\x07", None),  # not packed
        (NAME + b"\x12\x05" + LABEL_7, 9),  # a later value replaces an earlier one
    ],
)
def test_encodings_of_other_writers_are_read(entry, label):
    serialized = with_entry(entry, label)
    expected = tf.io.parse_single_example(
        serialized, {KEYS[1]: tf.io.FixedLenFeature([], tf.int64)}
    )
    assert records.parse(serialized)[1] == expected[KEYS[1]].numpy() == 7


@pytest.mark.parametrize(
    "value",
    [
        b"\x12\x06\x1a\x04\x0a\x02\x07\x08",  # two values
        b"\x12\x06\x1a\x04\x08\x07\x08\x08",  # two values, not packed
        b"\x12\x05\x1a\x03\x0a\x01\x87",  # cut off
        b"\x12\x05\x0a\x03\x0a\x017",  # bytes
        b"\x12\x08\x12\x06\x0a\x04\x00\x00\xa0\x40",  # decimals
        b"\x12\x02\x1a\x00",  # none
        b"\x12\x00",
    ],
)
def test_what_is_no_single_label_is_refused_as_by_tensorflow(value):
    serialized = with_entry(NAME + value)
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.InternalError)):
        tf.io.parse_single_example(serialized, {KEYS[1]: tf.io.FixedLenFeature([], tf.int64)})
    with pytest.raises(
        ValueError,
        match=r"A record has no (image/class/label that is one value, a whole|whole tf.Example)",
    ):
        records.parse(serialized)


OTHER_FIELDS = {
    "integer": b"\x48\xff\x01",
    "eight bytes": b"\x49" + b"\xff" * 8,
    "four bytes": b"\x4d" + b"\xff" * 4,
    "bytes": b"\x4a\x03\xff\xff\xff",
    "no bytes": b"\x4a\x00",
}


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_fields_of_later_definitions_are_skipped_as_by_protobuf(name):
    other = OTHER_FIELDS[name]
    entry = NAME + b"\x12\x05" + LABEL_7
    features = other + b"\x0a" + bytes([len(entry)]) + entry + other
    serialized = (
        other + example(b"image", None) + b"\x0a" + bytes([len(features)]) + features + other
    )
    whole = tf.train.Example.FromString(serialized)
    assert list(whole.features.feature[KEYS[1]].int64_list.value) == [7]
    found, label = records.parse(serialized)
    assert (bytes(found), label) == (b"image", 7)


def test_lengths_beyond_all_memory_are_refused():
    with pytest.raises(ValueError, match="A record has no"):
        records.parse(b"\x0a" + b"\xff" * 8 + b"\x7f" + b"x" * 20)


@given(st.data())
def test_any_bytes_are_parsed_or_refused(data):
    whole = bytearray(example(b"an image", 300, other=b"value"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        image, _ = records.parse(cut)
    except ValueError as error:
        assert "A record has no" in str(error)
    else:
        assert bytes(image) in cut


@pytest.mark.parametrize("missing", KEYS)
def test_a_record_without_image_or_label_is_named(tmp_path, missing):
    good = example(b"image", 1)
    bad = example(None if missing == KEYS[0] else b"image", None if missing == KEYS[1] else 1)
    file = write(tmp_path / "data", [good, bad])
    value = "bytes" if missing == KEYS[0] else "a whole number"
    expected = f"A record has no {missing} that is one value, {value}: run ingestion again."
    with pytest.raises(ValueError) as caught:
        everything([file])
    assert str(caught.value) == f"{file}, byte {len(good) + 16}: {expected}"


@pytest.mark.parametrize("at", [0, 9, 40, -1])
def test_a_changed_byte_is_found(tmp_path, at):
    """In the length, its checksum, the record and its checksum."""
    file = write(tmp_path / "data", [example(bytes(100), 1)])
    content = bytearray((tmp_path / "data").read_bytes())
    content[at] ^= 4
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(
        ValueError, match=f"^{file} is damaged or cut off at byte 0: run ingestion again.$"
    ):
        everything([file])


@pytest.mark.parametrize("bytes_left", [3, 12, 100, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path, bytes_left):
    file = write(tmp_path / "data", [example(bytes(200), 1)])
    content = (tmp_path / "data").read_bytes()
    (tmp_path / "data").write_bytes(content[:bytes_left])
    with pytest.raises(ValueError, match="data is damaged or cut off at byte 0"):
        everything([file])


@pytest.mark.parametrize("missing", range(1, 16))
def test_a_record_without_its_end_has_no_place(tmp_path, missing):
    file = write(tmp_path / "data", [example(b"image", 1), example(b"image", 2)])
    size = os.path.getsize(file)
    os.truncate(file, size - missing)
    with pytest.raises(ValueError, match=f"data is damaged or cut off at byte {size // 2}: "):
        records.Files([file]).places(0, 0)


def test_the_system_is_asked_for_the_records_that_have_places_and_for_no_more(
    tmp_path, monkeypatch
):
    file, asked = write(tmp_path / "data", [example(bytes(9), number) for number in range(300)]), []
    monkeypatch.setattr(os, "posix_fadvise", lambda number, *range: asked.append(range))
    places, end = records.Files([file]).places(0, 0)
    assert len(places) == 256
    begins = places[:, 1] - 12
    expected = zip(begins, np.diff([*begins, end]), strict=True)
    assert asked == [(begin, size, os.POSIX_FADV_WILLNEED) for begin, size in expected]


def test_a_record_is_read_in_one_call(tmp_path, monkeypatch):
    file, calls, whole = write(tmp_path / "data", [example(b"image", 1)]), [], os.pread
    opened = records.Files([file])
    [place], _ = opened.places(0, 0)
    monkeypatch.setattr(os, "pread", lambda *given: calls.append(given) or whole(*given))
    assert opened.read(place) == (b"image", 1)
    assert len(calls) == 1


def test_a_file_with_the_number_of_standard_input_is_closed_too(tmp_path):
    """A process whose standard input is closed gives its number to the next file."""
    file, standard = write(tmp_path / "data", []), os.dup(0)
    os.close(0)
    try:
        opened = records._Open(file)
        assert opened.fileno() == 0
        del opened
        with pytest.raises(OSError):
            os.fstat(0)
    finally:
        os.dup2(standard, 0)
        os.close(standard)


def test_few_files_are_open_at_once(tmp_path):
    files = [write(tmp_path / str(number), [example(b"image", number)]) for number in range(300)]
    before, opened = len(os.listdir("/proc/self/fd")), records.Files(files)
    for number in range(300):
        [place], _ = opened.places(number, 0)
        assert opened.read(place)[1] == number
    assert 0 < len(os.listdir("/proc/self/fd")) - before <= 64
    del opened
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_that_close_each_others_files_read_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_MOST_OPEN", 2)
    files = [
        write(tmp_path / str(number), [example(b"%d" % number, number)] * 300)
        for number in range(6)
    ]
    opened = records.Files(files)

    def work(start):
        for number in [(start + step) % 6 for step in range(150)]:
            places, _ = opened.places(number, 0)
            assert len(places) == 256 and set(places[:, 0]) == {number}
            assert opened.read(places[-1]) == (b"%d" % number, number)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))


def test_parts_of_a_read_are_put_together(tmp_path, monkeypatch):
    """As network file systems may answer."""
    file, whole = write(tmp_path / "data", [example(bytes(1000), 5)]), os.pread
    monkeypatch.setattr(os, "pread", lambda number, size, at: whole(number, min(size, 7), at))
    assert everything([file]) == [(bytes(1000), 5)]


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="nothing"):
        records.Files([str(tmp_path / "nothing")]).places(0, 0)
    gc.collect()
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "file, seekable", [("/a/data", True), ("/a/data.gz", False), ("gs://bucket/data", False)]
)
def test_places_are_for_local_files_that_are_not_compressed(file, seekable):
    assert records.seekable(file) == seekable
