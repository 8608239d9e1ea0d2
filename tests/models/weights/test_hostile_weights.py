"""Files of weights that were made to harm: bounded memory and time, and nothing of other files."""

import os
import pathlib
import struct
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import safetensors.numpy

from models.weights import foreign_files, pickles
from tests.helpers import torch_writer, weight_fuzzer
from tests.helpers.torch_writer import Raw


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def nested(depth, times=2):
    """A tuple of tuples: its hash, its text and its comparison take 2**depth steps."""
    return b"K\x00" + (b"2" * (times - 1) + b"\x86") * depth


LONG = b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6
# Opcodes of an object, which lies in the place of the weights and beside them.
PICKLES = {
    "memo": b"Nr\xff\xff\xff\x7f",
    "memo_of_text": b"Np99999999999999999999\n",
    "key": b"}" + nested(60) + b"Ns",
    "key_of_many": b"}(" + nested(60) + b"Nu",
    "name_of_storage": b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + nested(60) + b"NK\x04tQ",
    "persistent": nested(60) + b"Q",
    "set": b"\x8f(" + nested(60) + b"\x90",
    "frozen": b"(" + nested(60) + b"\x91",
    "called": b"cbuiltins\nfrozenset\n(](" + nested(60) + b"etR",
    "number_as_key": b"}" + LONG + b"q\x00" + b"Nsh\x00" * 10**5 + b"Ns",
    "long": b"\x8b\xff\xff\xff\x7f\x01",
    "negative_long": b"\x8b\xff\xff\xff\xff\x01",
    "digits": b"I" + b"9" * 10**6 + b"\n",
    "text": b"X\xff\xff\xff\x7fa",
    "text_of_8": b"\x8d" + b"\xff" * 7 + b"\x7fa",
    "bytes_of_8": b"\x8e" + b"\xff" * 7 + b"\x7fa",
    "array_of_8": b"\x96" + b"\xff" * 7 + b"\x7fa",
    "frame": b"\x95" + b"\xff" * 7 + b"\x7fN",
    "depth": b"](" * 10**6 + b"K\x00" + b"te" * 10**6,
    "deep_tuples": b")" + b"\x85" * 10**6,
    "sets": b"\x8f" * 10**6,
    "dictionaries": b"}" * 10**6,
    "steps": b"N0" * (pickles.MOST_STEPS // 2 + 10),
    "state": b"}q\x00(" + b"".join(text(b"%d" % i) + b"N" for i in range(10**5)) + b"u0"
    + b"ccollections\nOrderedDict\nq\x01)Rh\x00b" + b"h\x01)Rh\x00b" * 10**5,
    "pairs": b"](" + b"".join(b"]" + text(b"%d" % i) + b"aNa" for i in range(10**5)) + b"e\x85q\x00"
    + b"ccollections\nOrderedDict\nq\x01h\x00R" + b"h\x01h\x00R" * 10**5,
    "names": text(b"a" * 10**6) + b"q\x00" + b"h\x00h\x00\x93" * 10**5,
    "modules": b"}q\x00(" + b"".join(text(b"%d" % i) + b"N" for i in range(10**5)) + b"u0"
    + b"}" + text(b"_parameters") + b"h\x00sq\x01cm\nN\nq\x02)R}" + text(b"_modules") + b"}("
    + b"".join(text(b"m%d" % i) + b"h\x02)Rh\x01b" for i in range(10**5)) + b"ussb",
    "itself": b"}q\x00" + text(b"state_dict") + b"h\x00s",
    "rebuilt": b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00" + b")" + b"h\x000" + b"\x85q\x01" * 9 + b"R",
    "extension": b"\x82\x01",
    "empty": b"0",
    "marks": b"(" * 10**6 + b"N",
    "code": b"cos\nsystem\n(" + text(b"true") + b"tR",
    "old_code": b"(" + text(b"true") + b"ios\nsystem\n",
}  # fmt: skip


def zip_of(path, names_and_contents, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, contents in names_and_contents.items():
            archive.writestr(name, contents)


def npy(shape, data=b"", dtype="<f4"):
    header = (
        f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode()
        + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of files, each of which is read or refused in a sentence."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, code in PICKLES.items():
        torch_writer.save(
            folder / f"{name}.pth", {"a": np.ones(3, np.float32), "state_dict": Raw(code)}
        )
        (folder / f"{name}.pt").write_bytes(b"\x80\x02" + code + b".")
    zip_of(folder / "bomb.npz", {"a.npy": npy((10**9,), bytes(10**8))})
    zip_of(folder / "header.npz", {"a.npy": npy((10**12,), b"")}, zipfile.ZIP_STORED)
    zip_of(folder / "product.npz", {"a.npy": npy((2**62, 2**62), b"")}, zipfile.ZIP_STORED)
    zip_of(folder / "lzma.npz", {"a.npy": npy((10**7,), bytes(4 * 10**7))}, zipfile.ZIP_LZMA)
    zip_of(folder / "bomb.pth", {"a/data.pkl": bytes(10**8)})
    with h5py.File(folder / "shape.h5", "w") as file:
        file.create_dataset(
            "layers/conv/vars/0", (10**6, 10**6), "f4", chunks=(100, 100), compression="gzip"
        )
    with h5py.File(folder / "chunk.h5", "w") as file:
        options = {"maxshape": (None,), "chunks": (5 * 10**7,), "compression": "gzip"}
        file.create_dataset("layers/conv/vars/0", data=np.ones(3, np.float32), **options)
    with h5py.File(folder / "text.h5", "w") as file:
        file.attrs["layer_names"] = ["a" * 60_000] * 1000
        file["conv1/kernel:0"] = np.ones(3, np.float32)
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    (folder / "declared.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "length.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    (folder / "shape.caffemodel").write_bytes(
        bytes.fromhex("a20614 0a0161 120b436f6e766f6c7574696f6e 3a020801")
    )
    (folder / "length.caffemodel").write_bytes(b"\xa2\x06\xff\xff\xff\xff\x07")
    (folder / "layers.caffemodel").write_bytes(b"\xa2\x06\0" * 10**6)
    (folder / "blobs.caffemodel").write_bytes(b"\xa2\x06\x80\x89\x7a" + b"\x3a\0" * 10**6)
    (folder / "groups.caffemodel").write_bytes(b"\xa3\x06" * 10**5)
    return folder


def run(folder, count, seed):
    command = [
        sys.executable,
        weight_fuzzer.__file__,
        str(folder),
        str(count),
        str(seed),
    ]
    root = str(pathlib.Path(__file__).parents[3])
    found = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def test_hostile_files_take_little_memory_and_time(hostile):
    """In a process whose address space ends 64 MiB above 40 times the file."""
    assert run(hostile, 0, 0) == ""


def test_the_limits_of_the_fuzzer_are_ones(tmp_path, monkeypatch):
    """A reader that asks for what is declared is found."""
    monkeypatch.setattr(
        foreign_files,
        "read",
        lambda path: np.empty(2**32, np.uint8),  # more than a heap has free
    )
    assert "Unable to allocate" in weight_fuzzer.read(str(tmp_path), 100)


def test_changed_files_are_read_or_refused(tmp_path):
    values = {
        "conv1.weight": np.ones([4, 3, 2, 2], np.float32),
        "bn1.bias": np.arange(4, dtype=np.float32),
    }
    for version in torch_writer.VERSIONS:
        for python in (2, 3):
            whole = {"state_dict": values, "args": ("a", 1, 2.5, None), "best_prec1": 91.5}
            torch_writer.save(tmp_path / f"{version}_{python}.pth", whole, version, python=python)
    np.savez(tmp_path / "stored.npz", **values)
    np.savez_compressed(tmp_path / "packed.npz", **values)
    safetensors.numpy.save_file(values, tmp_path / "net.safetensors")
    weights = bytes.fromhex(
        "a20627 0a0161 120b436f6e766f6c7574696f6e 3a15 2a08 0000803f00000040 3a09 0a07"
        " 01010101010102"
    )
    (tmp_path / "net.caffemodel").write_bytes(weights)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for layer, value in values.items():
            file[f"layers/{layer}/vars/0"] = value
    assert run(tmp_path, 60, 7) == ""


@pytest.mark.parametrize("where", ["group", "dataset", "root"])
@pytest.mark.parametrize("kind", [h5py.ExternalLink, h5py.SoftLink])
def test_links_of_an_h5_file_are_refused(tmp_path, where, kind):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["model_weights/conv1/conv1/kernel:0"] = np.ones(3, np.float32)
    place = {"group": "conv1", "dataset": "conv1/conv1/kernel:0", "root": "model_weights"}[where]
    target = "/model_weights" if where == "root" else f"/model_weights/{place}"
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        file["fc/fc/bias:0"] = np.ones(3, np.float32)
        file[place] = (
            kind(str(tmp_path / "other.h5"), target) if kind is h5py.ExternalLink else kind("/fc")
        )
    with pytest.raises(
        ValueError, match=r"net\.h5 has a link in the place of .*, and what it leads to is not read"
    ):
        foreign_files.read(str(tmp_path / "net.h5"))


def test_storage_outside_of_an_h5_file_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"secretsecret")
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (3,))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        outside = [(str(tmp_path / "secret"), 0, 12)]
        file.create_dataset("layers/conv/vars/0", (3,), "f4", external=outside)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("layers/conv/vars/0", layout)
    for name in ("external.h5", "virtual.h5"):
        with pytest.raises(ValueError, match=rf"{name} keeps layers/conv/vars/0 in another file"):
            foreign_files.read(str(tmp_path / name))
