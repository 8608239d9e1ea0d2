"""Files of weights: every format gives the same tensors, and none can run or crash anything."""

import collections
import json
import os
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from models.weights import foreign_files
from tests.helpers import torch_reference, torch_writer
from tests.helpers.torch_writer import Call, Name, View

SMALL = torch_reference.state((1, 1, 1), shortcut="A", head="linear")


def saved(folder, state, name="net.pth", **options):
    path = os.path.join(folder, name)
    torch_writer.save(path, state, **options)
    return path


def same(path, wanted):
    found = foreign_files.read(path)
    assert found.keys() == wanted.keys()
    if not path.endswith(("safetensors", "h5")):
        assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=f"{path} {name}")


def test_every_file_format_gives_the_same_tensors(tmp_path):
    whole = {"epoch": 3, "best": 0.5, "state_dict": {f"module.{k}": v for k, v in SMALL.items()}}
    whole["state_dict"]["module.bn1.num_batches_tracked"] = np.array(7)
    np.savez(tmp_path / "net.npz", **SMALL)
    safetensors.numpy.save_file(SMALL, tmp_path / "net.safetensors")
    # A kernel as the transpose of another memory layout, and vectors as parts of one storage.
    views = dict(SMALL)
    views["conv1.weight"] = np.ascontiguousarray(
        SMALL["conv1.weight"].transpose(2, 3, 1, 0)
    ).transpose(3, 2, 0, 1)
    both = np.concatenate([SMALL["bn1.weight"], SMALL["bn1.bias"]])
    views["bn1.weight"], views["bn1.bias"] = both[:16], both[16:]
    paths = [
        saved(tmp_path, SMALL),
        *(
            saved(tmp_path, SMALL, f"{version}.th", version=version)
            for version in torch_writer.VERSIONS
        ),
        saved(tmp_path, whole, "whole.pth.tar"),
        saved(tmp_path, views, "views.pt"),
        *(
            saved(tmp_path, views, f"views{version}.pt", version=version)
            for version in ("0.1", "0.3", "0.4")
        ),
        saved(tmp_path, {k: v.astype(np.float64) for k, v in SMALL.items()}, "double.bin"),
        str(tmp_path / "net.npz"),
        str(tmp_path / "net.safetensors"),
    ]
    for path in paths:
        same(path, SMALL)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_widened(tmp_path, dtype):
    half = {name: value.astype(dtype) for name, value in SMALL.items()}
    wanted = {name: value.astype(np.float32) for name, value in half.items()}
    paths = [saved(tmp_path, half), saved(tmp_path, half, "old.pth", version="0.4")]
    paths.append(write_safetensors(tmp_path / "half.safetensors", half))
    for path in paths:
        same(path, wanted)


@pytest.mark.parametrize("python", [2, 3])
@pytest.mark.parametrize("version", torch_writer.VERSIONS)
def test_what_training_programs_save_beside_the_weights_is_passed_over(tmp_path, version, python):
    """As the example programs of PyTorch did: accuracy as a tensor, an optimizer, settings, their
    classes.
    """
    names = {f"module.{name}": value for name, value in SMALL.items()}
    weights = collections.OrderedDict(names)
    weights._metadata = {"": {"version": 1}}
    whole = {
        "epoch": 120,
        "arch": "resnet8",
        "best_prec1": np.float32([91.7]),
        "best": Call(Name("numpy.core.multiarray", "scalar"), Name("numpy", "dtype"), "\x00\x01"),
        "args": Call(
            Name("argparse", "Namespace"), state={"lr": 0.1, "gpu": None, "evaluate": False}
        ),
        "device": Call(Name("torch", "device"), "cuda", 0),
        "optimizer": {
            "state": {0: {"momentum_buffer": np.ones([2, 2], np.float32)}},
            "param_groups": [{}],
        },
        "state_dict": weights,
    }
    path = saved(tmp_path, whole, version=version, python=python, location="cuda:0")
    same(path, SMALL)
    for name in ("model", "net"):
        same(saved(tmp_path, {name: weights, "acc": 91.7}, version=version, python=python), SMALL)


def test_a_storage_can_be_a_view_of_another(tmp_path):
    values = np.arange(8, dtype=np.float32)
    views = {"whole": values[None], "part": View("7", 8, 1, (2, 2), (2, 1), part=("8", 3, 5))}
    path = saved(tmp_path, views, version="0.3", keys=["7"])
    same(path, {"whole": values[None], "part": values[4:8].reshape(2, 2)})


@pytest.mark.parametrize("version", torch_writer.VERSIONS)
def test_a_whole_module_has_the_weights_of_its_attributes(tmp_path, version):
    """torch.save(net): the class by name (before 1.6 with its source code), parameters, buffers,
    modules.
    """
    kind = "Parameter" if version in ("0.1", "0.3") else "_rebuild_parameter"
    function = Name("torch.nn.parameter" if kind == "Parameter" else "torch._utils", kind)

    def module(tree):
        named = {name: value for name, value in tree.items() if isinstance(value, np.ndarray)}
        buffers = {name: value for name, value in named.items() if name.startswith("running")}
        parameters = {
            name: Call(function, value, True)
            for name, value in named.items()
            if name not in buffers
        }
        modules = {name: module(value) for name, value in tree.items() if isinstance(value, dict)}
        state = {
            "training": True,
            "_parameters": parameters,
            "_buffers": buffers,
            "_modules": modules,
        }
        return Call(Name("__main__", "Net"), state=state)

    tree = {}
    for name, value in SMALL.items():
        *places, last = name.split(".")
        node = tree
        for place in places:
            node = node.setdefault(place, {})
        node[last] = value
    for whole in (module(tree), {"net": module({"module": tree}), "acc": 91.0}):
        found = foreign_files.read(saved(tmp_path, whole, version=version))
        assert found.keys() == SMALL.keys()
        for name, value in SMALL.items():
            np.testing.assert_array_equal(found[name], value)


def test_keras_2_files_have_their_variables_by_layer(tmp_path):
    kernel, gamma = np.ones([3, 3, 2, 4], np.float32), np.arange(4, dtype=np.float32)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"conv1_conv", b"conv1_bn"]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, name, value in (("conv1_conv", "kernel", kernel), ("conv1_bn", "gamma", gamma)):
            group = file.create_group(layer)
            group[f"{layer}/{name}:0"] = value
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode()]
    same(str(tmp_path / "net.h5"), {"conv1_conv/kernel": kernel, "conv1_bn/gamma": gamma})


def write_safetensors(path, tensors):
    """By the format's description: the length of a JSON header, the header, the data."""
    kinds = {"float16": "F16", "bfloat16": "BF16"}
    header, data = {}, b""
    for name, value in tensors.items():
        place = [len(data), len(data) + value.nbytes]
        header[name] = {
            "dtype": kinds[value.dtype.name],
            "shape": value.shape,
            "data_offsets": place,
        }
        data += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return str(path)


@pytest.mark.parametrize("version", torch_writer.VERSIONS)
@pytest.mark.parametrize(
    ("module", "function"),
    [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load")],
)
def test_a_checkpoint_cannot_run_anything(tmp_path, version, module, function):
    """What it calls beside the weights is nothing; in their place it is no weight, and said."""
    mark = tmp_path / "ran"
    text = f"touch {mark}" if "system" in function else f"open({str(mark)!r}, 'w')"
    call = Call(Name(module, function), text)
    same(saved(tmp_path, {"args": call, "state_dict": SMALL}, version=version), SMALL)
    path = saved(tmp_path, {"state_dict": call}, version=version)
    with pytest.raises(
        ValueError, match=rf"net.pth contains {module}.{function}, .* alone\.$"
    ) as error:
        foreign_files.read(path)
    assert not mark.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize("version", torch_writer.VERSIONS)
def test_damaged_files_are_refused(tmp_path, version):
    path = saved(tmp_path, SMALL, version=version)
    with open(path, "rb") as file:
        contents = file.read()
    # A tar archive has blocks of zeros behind its last file.
    for length in (0, 10, len(contents) // 2, len(contents) - (15_000 if version == "0.1" else 5)):
        with open(path, "wb") as file:
            file.write(contents[:length])
        with pytest.raises(ValueError, match=r"net\.pth (is|ends|cannot)"):
            foreign_files.read(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (2, 3), (3, 1)),
        (4, (1,), (1,)),
        (-1, (2,), (1,)),
        (1, (2,), (-1,)),
        (0, (2, 2), (1, 3)),
        (2, (-1,), (1,)),
        (0, (2**30,), (0,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, offset, shape, strides):
    view = View("0", 4, offset, shape, strides)
    values = {"whole": np.zeros(4, np.float32), "part": view}
    with pytest.raises(
        ValueError, match=r"a tensor part of shape \[.*\] that reaches beyond its storage"
    ):
        foreign_files.read(saved(tmp_path, values, keys=["0"]))


def test_tensors_that_share_a_storage_are_not_multiplied(tmp_path):
    views = {str(number): View("0", 4000, 0, (4000,), (1,)) for number in range(20)}
    path = saved(tmp_path, {"whole": np.zeros(4000, np.float32), **views}, keys=["0"])
    with pytest.raises(
        ValueError, match=r"net\.pth has 336000 bytes of tensors in .* share their storage"
    ):
        foreign_files.read(path)


def test_a_compressed_checkpoint_is_refused(tmp_path):
    """PyTorch writes none, and a small one could fill the memory."""
    path = saved(tmp_path, SMALL)
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(tmp_path / "new.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"new\.pth is compressed"):
        foreign_files.read(str(tmp_path / "new.pth"))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("net.onnx", b"", r"files of weights end in \.npz, \.safetensors, \.h5"),
        ("net.npz", b"nothing", r"cannot be read as \.npz"),
        ("net.h5", b"nothing", r"cannot be read as \.h5"),
        ("net.safetensors", b"nothing", r"cannot be read as \.safetensors"),
        ("net.pth", b"nothing", r"net\.pth is no PyTorch checkpoint"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, name, contents, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        foreign_files.read(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"none\.npz does not exist"):
        foreign_files.read(str(tmp_path / "none.npz"))


def test_archives_of_other_things_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}]))
    with pytest.raises(
        ValueError, match=r"objects\.npz cannot be read .*object, which are no numbers"
    ):
        foreign_files.read(str(tmp_path / "objects.npz"))
    np.savez(tmp_path / "text.npz", a=np.array(["a"]))
    with pytest.raises(ValueError, match=r"text\.npz cannot be read .*<U1, which are no numbers"):
        foreign_files.read(str(tmp_path / "text.npz"))
