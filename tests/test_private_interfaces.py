"""What other libraries do not offer in public: in one place each, still there, and bounded."""

import ast
import importlib
import importlib.metadata
import sys
import tomllib

import pytest
import tensorflow as tf
from absl import flags
from packaging.requirements import Requirement

from tests.test_architecture import HOUSES, ROOT

# Our file, the distribution that it leans on, and what it takes from there: a module, a class or
# function in it, and an attribute of the class or of its objects. "" is Python's own library.
USED = [
    ("serving/compat/tensorflow_session.py", "tensorflow", name)
    for name in (
        "tensorflow.compat.v1 Session _make_callable_from_options",
        "tensorflow.python.saved_model.loader_impl SavedModelLoader get_meta_graph_def_from_tags",
        "tensorflow.python.saved_model.loader_impl SavedModelLoader load",
    )
]
USED += [
    ("serving/compat/uvicorn_protocol.py", "uvicorn", f"uvicorn.protocols.http.{name}")
    for name in (
        *(
            f"h11_impl H11Protocol {name}"
            for name in ("connections", "cycle", "flow", "loop", "transport", "shutdown")
        ),
        "h11_impl RequestResponseCycle more_body",
        "h11_impl RequestResponseCycle response_complete",
        "flow_control FlowControl write_paused",
    )
]
USED += [
    ("components/compat/tarfile_headers.py", "", "tarfile TarFile members"),
    ("components/compat/tarfile_headers.py", "", "tarfile TarFile offset"),
    (
        "components/example_gen/sources/tfds_source.py",
        "tensorflow-datasets",
        "tensorflow_datasets.core.read_only_builder builder_from_files",
    ),
    (
        "components/example_gen/sources/tfds_source.py",
        "tensorflow-datasets",
        "tensorflow_datasets.core.registered DatasetNotFoundError",
    ),
    (
        "components/evaluator/loading.py",
        "tensorflow-model-analysis",
        "tensorflow_model_analysis.api.types ModelLoader construct_fn",
    ),
]
# Held by other tests: a flag below, and what only Airflow's own environment has, by those of
# pipeline/airflow.
PLACES = {file: package for file, package, _ in USED} | {
    "models/compat/tfx_bsl_batches.py": "tfx-bsl",
    "pipeline/airflow/user.py": "apache-airflow-providers-fab",
}
# Modules whose names say that they are nobody else's, and those that no documentation has.
INNER = {"python", "src", "internal"}
UNDOCUMENTED = ("uvicorn.protocols", "tensorflow_datasets.core", "airflow.providers.fab")
# Names with an underscore that are public.
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit"}


def lost(file, package, name):
    """A sentence on what the library no longer has; "" if it has it."""
    module, owner, *attribute = name.split()
    try:
        found = getattr(importlib.import_module(module), owner)
        there = all(
            hasattr(found, one) or one in found.__init__.__code__.co_names for one in attribute
        )
    except (ImportError, AttributeError):
        there = False
    version = importlib.metadata.version(package) if package else sys.version.split()[0]
    return "" if there else (
        f"{package or 'Python'} {version} has no {name.replace(' ', '.')} any more, and {file} needs"
        ' it: "Private interfaces" in BUILD.md says what for.'
    )  # fmt: skip


@pytest.mark.parametrize("file,package,name", USED)
def test_the_library_still_has_it(file, package, name):
    sentence = lost(file, package, name)
    if sentence:
        pytest.fail(sentence, pytrace=False)


def test_what_is_lost_is_told_in_a_sentence(monkeypatch):
    from tensorflow.python.client import session
    from tensorflow.python.saved_model import loader_impl

    monkeypatch.delattr(session.BaseSession, "_make_callable_from_options")
    monkeypatch.delattr(loader_impl, "SavedModelLoader")
    assert lost(*USED[0]) == (
        f"tensorflow {tf.__version__} has no tensorflow.compat.v1.Session._make_callable_from_options"
        " any more, and serving/compat/tensorflow_session.py needs it:"
        ' "Private interfaces" in BUILD.md says what for.'
    )
    assert lost(*USED[1]) and lost("f", "tfx", "tfx.no_such_module Thing")


def test_tfx_bsl_still_has_its_flag():
    import tfx_bsl.coders.batch_util  # noqa: F401

    assert "tfxio_use_byte_size_batching" in flags.FLAGS, (
        "tfx_bsl has no flag tfxio_use_byte_size_batching any more, and"
        " models/compat/tfx_bsl_batches.py needs it."
    )


@pytest.mark.parametrize("package", sorted({*PLACES.values()} - {""}))
def test_the_library_has_an_upper_bound(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["airflow"]]
    [bounds] = [one.specifier for one in map(Requirement, listed) if one.name == package]
    assert {one.operator for one in bounds} & {"==", "<", "<="}, (
        f"{package} has no upper bound in pyproject.toml, and its private interfaces may change."
    )


def test_the_table_has_every_place():
    text = (ROOT / "BUILD.md").read_text()
    table = text[text.index("## Private interfaces") :]
    assert not [file for file in PLACES if f"`{file}`" not in table]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_uses(source):
    """What a module takes from others that is not public, as (line, text)."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    own, foreign = set(PUBLIC), set()
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                own.add(node.name)
            case ast.Attribute(ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
                own.add(node.attr)
            case ast.Name(ctx=ast.Store()):
                own.add(node.id)
    for node in nodes:
        names = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] not in HOUSES:
                parts = name.split(".")
                foreign |= {a.asname or a.name.split(".")[-1] for a in node.names} - sys.stdlib_module_names  # fmt: skip
                if any(map(is_private, parts)) or INNER & {*parts} or name.startswith(UNDOCUMENTED):
                    yield node.lineno, f"import of {name}"
    for node in nodes:
        match node:
            case ast.Attribute(attr=attr, value=ast.Call(func=ast.Name(id="super"))):
                if is_private(attr):
                    yield node.lineno, ast.unparse(node)
            case ast.Attribute(attr=attr) if is_private(attr) and attr not in own:
                yield node.lineno, ast.unparse(node)
            case ast.Attribute(ctx=ast.Store(), value=ast.Name(id=name)) if name in foreign:
                yield node.lineno, f"{ast.unparse(node)} = ..."
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"),
                args=[_, ast.Constant(value=str(attr)), *_],
            ) if is_private(attr) and attr not in own:
                yield node.lineno, ast.unparse(node)


def test_nothing_else_uses_a_private_interface():
    found = [
        f"{path}:{line}: {text}"
        for house in HOUSES
        for file in sorted((ROOT / house).rglob("*.py"))
        if (path := file.relative_to(ROOT).as_posix()) not in PLACES
        for line, text in private_uses(file.read_text())
    ]
    assert not found, "Put these behind a function of a compat room, with a line in BUILD.md."


@pytest.mark.parametrize(
    "source",
    [
        "from tensorflow.python.framework import ops",
        "import keras.src.backend",
        "from keras import src",
        "from tfx_bsl.coders.batch_util import _USE_BYTE_SIZE_BATCHING",
        "from uvicorn.protocols.http.h11_impl import H11Protocol",
        "import keras\nkeras.layers.Dense(3)._inbound_nodes",
        "class Own(Theirs):\n    def run(self):\n        self._their_state",
        "class Own(Theirs):\n    def _step(self):\n        return super()._step()",
        "getattr(model, '_step')",
        "import keras\nkeras.Model = None",
    ],
)
def test_a_private_use_is_found(source):
    assert len([*private_uses(source)]) == 1


@pytest.mark.parametrize(
    "source",
    [
        "class Own:\n    def __init__(self):\n        self._state = 1\n\ndef f(one: Own):\n    one._state",
        "from models.settings import _CROPS",
        "import tempfile\ntempfile.tempdir = 'x'",
        "Point(1)._replace(x=2)",
        "super().__init__()",
    ],
)
def test_what_is_our_own_or_public_is_not(source):
    assert not [*private_uses(source)]
