"""Writes checkpoints as the versions of torch.save did, from the descriptions of its formats.

Given the tensors and numbers of akamaster's resnet20-12fca82f.th (PyTorch 0.3, Python 3.5,
DataParallel on a GPU), `save(path, value, "0.3", location="cuda:0", keys=...)` writes that file,
byte for byte.
"""

import collections
import io
import pickle
import struct
import tarfile
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
# Of PyTorch; 1.6 is the zip archive of today.
VERSIONS = ("0.1", "0.3", "0.4", "1.6")
MAGIC = 0x1950A86A20F9469CFC6C


class Raw(bytes):
    """Opcodes to put in as they are."""


class Name:
    """A class or function of any module, which is not imported."""

    def __init__(self, module, attribute):
        self.module, self.attribute = module, attribute

    def __call__(self):
        raise AssertionError("only pickled")


class Call:
    """What is pickled as the result of a call, with attributes where there are some."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state


class View:
    """A tensor by its numbers, right or wrong."""

    def __init__(self, key, size, offset, shape, strides, kind="FloatStorage", part=None):
        self.pid = ("storage", key, size, kind, part)
        self.numbers = (offset, shape, strides)


class Storage:
    def __init__(self, key, size, kind, part=None):
        self.key, self.size, self.kind, self.part = key, size, kind, part


class Pickler(pickle._Pickler):
    """Protocol 2, of Python 3 or 2 (texts are bytes there, and an OrderedDict is made of a list)."""

    def __init__(self, file, version, python=3, location="cpu", keys=()):
        super().__init__(file, protocol=2)
        self.version, self.python, self.location = version, python, location
        self.keys = iter(keys)
        self.bases = {}
        self.names = {}
        self.sources = []
        self.alive = []
        self.tensors = {}

    def persistent_id(self, obj):
        if isinstance(obj, Name):
            return self._source(obj)
        if self.version == "0.1":
            return self._number(obj) if isinstance(obj, np.ndarray) else None
        if not isinstance(obj, Storage):
            return None
        # "cuda:" + number was another text each time, "cpu" always the same.
        location = self.location if self.location == "cpu" else self.location.encode().decode()
        pid = ("storage", self._name("torch", obj.kind), obj.key, location, obj.size)
        return pid if self.version == "1.6" else (*pid, obj.part)

    def _source(self, name):
        """A module's class comes with its source code, the first time, before 1.6."""
        if self.version == "1.6" or name.module != "__main__" or name in self.sources:
            return None
        self.sources.append(name)
        pid = (name, "net.py", "class Net")
        return pid if self.version == "0.1" else ("module", *pid)

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Raw):
            self.write(bytes(obj))
        elif isinstance(obj, Name):
            pid = self.persistent_id(obj)
            self._save_name(obj) if pid is None else self.save_pers(pid)
        elif isinstance(obj, np.ndarray) and self.version != "0.1":
            self._save_tensor(obj, *self._view(obj))
        elif isinstance(obj, View):
            _, key, size, kind, part = obj.pid
            self._save_tensor(obj, Storage(key, size, kind, part), *obj.numbers)
        elif isinstance(obj, Call):
            self.save_reduce(obj.function, obj.arguments, obj.state, obj=obj)
        elif self.python == 2 and isinstance(obj, collections.OrderedDict):
            pairs = [[key, value] for key, value in obj.items()]
            self.alive.append(pairs)
            self.save_reduce(
                self._name("collections", "OrderedDict"), (pairs,), vars(obj) or None, obj=obj
            )
        elif self.python == 2 and isinstance(obj, str):
            self._save_bytes(obj)
        else:
            super().save(obj, save_persistent_id)

    def _name(self, module, attribute):
        return self.names.setdefault((module, attribute), Name(module, attribute))

    def _save_name(self, name):
        if id(name) in self.memo:
            self.write(self.get(self.memo[id(name)][0]))
            return
        self.write(f"c{name.module}\n{name.attribute}\n".encode())
        self.memoize(name)

    def _save_bytes(self, text):
        if id(text) in self.memo:
            self.write(self.get(self.memo[id(text)][0]))
            return
        self.write(b"U" + bytes([len(text)]) + text.encode())
        self.memoize(text)

    def _save_tensor(self, obj, storage, *numbers):
        name, more = "_rebuild_tensor", ()
        if self.version != "0.3":
            name, more = "_rebuild_tensor_v2", (False, collections.OrderedDict())
        arguments = (storage, *numbers, *more)
        self.alive.append(arguments)
        self.save_reduce(self._name("torch._utils", name), arguments, obj=obj)

    def _view(self, array):
        """Its storage, offset, shape and strides in elements."""
        base = array if array.base is None else array.base
        base = base if base.flags.c_contiguous else np.ascontiguousarray(base)
        flat = base.reshape(-1)
        known = next((key for key, (value, _) in self.bases.items() if value is flat), None)
        key = known or next(self.keys, str(94020243121552 + len(self.bases)))
        self.bases[key] = (flat, base)
        offset = (array.ctypes.data - base.ctypes.data) // array.itemsize
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return Storage(key, flat.size, STORAGES[array.dtype]), offset, array.shape, strides

    def _number(self, array):
        self.tensors.setdefault(id(array), array)
        return id(array)


def save(path, value, version="1.6", **options):
    """`value`: dictionaries, lists, numbers, texts, the above, and arrays with their strides and
    bases.
    """
    out = io.BytesIO()
    pickler = Pickler(out, version, **options)
    pickler.dump(value)
    {"0.1": _tar, "0.3": _pickles, "0.4": _pickles, "1.6": _zip}[version](
        path, out.getvalue(), pickler
    )


def _zip(path, body, pickler):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", "little")
        for key, (base, _) in pickler.bases.items():
            archive.writestr(f"archive/data/{key}", base.tobytes())
        archive.writestr("archive/version", "3\n")


def _pickles(path, body, pickler):
    system = {
        "protocol_version": 1001,
        "type_sizes": {"int": 4, "long": 4, "short": 2},
        "little_endian": True,
    }
    keys = sorted(pickler.bases)
    with open(path, "wb") as file:
        for part in (MAGIC, 1001, system):
            _dump(part, file, pickler)
        file.write(body)
        _dump(keys, file, pickler)
        for key in keys:
            base = pickler.bases[key][0]
            file.write(struct.pack("<q", base.size) + base.tobytes())


def _tar(path, body, pickler):
    """storages: count; of each its description, size and data; views. tensors: count; description
    of each.
    """
    storages, tensors = io.BytesIO(), io.BytesIO()
    views = []
    for number, array in pickler.tensors.items():
        storage, *numbers = pickler._view(array)
        views.append((number, int(storage.key), storage.kind, numbers))
    _dump(len(pickler.bases), storages, pickler)
    for key, (base, _) in pickler.bases.items():
        kind = Name("torch", STORAGES[base.dtype])
        _dump((int(key), "cpu", kind), storages, pickler)
        storages.write(struct.pack("<q", base.size) + base.tobytes())
    _dump([], storages, pickler)
    _dump(len(views), tensors, pickler)
    for number, key, kind, (offset, shape, strides) in views:
        _dump((number, key, Name("torch", kind.replace("Storage", "Tensor"))), tensors, pickler)
        tensors.write(struct.pack("<ii", len(shape), 0))
        tensors.write(struct.pack(f"<{2 * len(shape) + 1}q", *shape, *strides, offset))
    system = {
        "protocol_version": 1000,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, contents in (
            ("sys_info", pickle.dumps(system, protocol=2)),
            ("pickle", body),
            ("tensors", tensors.getvalue()),
            ("storages", storages.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))


def _dump(value, file, pickler):
    Pickler(file, "0.3", pickler.python).dump(value)
