"""Writes checkpoints as torch.save does, from the description of its formats: opcode by opcode."""

import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


def save(path, value, legacy=False):
    """`value`: nested dicts, numbers, strings and arrays, whose strides and bases are kept."""
    writer = Writer(legacy)
    body = b"\x80\x02" + writer.emit(value) + b"."
    if not legacy:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", body)
            archive.writestr("archive/byteorder", "little")
            for key, base in writer.bases.items():
                archive.writestr(f"archive/data/{key}", base.tobytes())
            archive.writestr("archive/version", "3\n")
        return
    out = io.BytesIO()
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    for part in (0x1950A86A20F9469CFC6C, 1001, system):
        out.write(pickle.dumps(part, protocol=2))
    out.write(body)
    out.write(pickle.dumps(list(writer.bases), protocol=2))
    for base in writer.bases.values():
        out.write(struct.pack("<q", base.size) + base.tobytes())
    with open(path, "wb") as file:
        file.write(out.getvalue())


def name(module, attribute):
    """The opcodes of a global, for a pickle of one's own."""
    return f"c{module}\n{attribute}\n".encode()


class Raw(bytes):
    """Opcodes to put in as they are."""


class Writer:
    def __init__(self, legacy):
        self.legacy = legacy
        self.bases = {}

    def emit(self, value):
        if isinstance(value, Raw):
            return bytes(value)
        if isinstance(value, dict):
            items = b"".join(self.emit(k) + self.emit(v) for k, v in value.items())
            return name("collections", "OrderedDict") + b")R(" + items + b"u"
        if isinstance(value, np.ndarray):
            return self._tensor(value)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.emit, value)) + b"t"
        if isinstance(value, str):
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        assert value is None
        return b"N"

    def _tensor(self, array):
        base = array if array.base is None else array.base
        base = base if base.flags.c_contiguous else np.ascontiguousarray(base)
        flat = base.reshape(-1)
        offset = (array.ctypes.data - base.ctypes.data) // array.itemsize
        key = next((key for key, known in self.bases.items() if known is flat), str(len(self.bases)))
        self.bases[key] = flat
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return self.tensor(STORAGES[array.dtype], key, flat.size, offset, array.shape, strides)

    def tensor(self, kind, key, size, offset, shape, strides):
        """The opcodes of a tensor that is a view of a storage, right or wrong."""
        pid = ("storage", Raw(name("torch", kind)), key, "cpu", size, *([None] if self.legacy else []))
        arguments = (Raw(self.emit(pid) + b"Q"), offset, shape, strides, False, {})
        return Raw(name("torch._utils", "_rebuild_tensor_v2") + self.emit(arguments) + b"R")
