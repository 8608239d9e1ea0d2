"""Every kind of source is what the interface says, and a new one is a file and a line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.example_gen import source
from components.example_gen import sources as package
from components.example_gen.errors import SourceError
from components.example_gen.settings import Data
from components.example_gen.sources import kinds, registry
from pipeline.config import validity
from pipeline.config.options import assign
from pipeline.config.settings import Config, ConfigError
from tests.components.example_gen.test_example_gen import (
    contents,
    found_classes,
    ingest,
    properties,
    quarantine,
)
from tests.helpers import data

GUIDE = Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_kind_is_a_source_that_needs_the_standard_library_alone(kind):
    assert issubclass(kinds.of(kind), kinds.Source)
    code = (
        "import sys, components.example_gen.settings; before = set(sys.modules); "
        f"from components.example_gen.sources import kinds; kinds.of({kind!r}); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['components']"


def test_a_kind_that_is_not_there_is_said():
    with pytest.raises(SourceError, match=f"must be one of {', '.join(registry.KINDS)}"):
        source.find(Data(kind="tabel", source="/in"))
    with pytest.raises(ConfigError, match=f"must be one of {', '.join(registry.KINDS)}"):
        validity.check(assign(Config(), ["data.kind=tabel"]))


def test_a_source_must_be_named_where_the_kind_has_no_usual_place():
    for kind in ("ilsvrc", "folder"):
        with pytest.raises(ConfigError, match=f"name the {kind} images"):
            validity.check(assign(Config(), [f"data.kind={kind}", "data.source="]))
    for kind in ("digits", "tfds"):
        validity.check(assign(Config(), [f"data.kind={kind}", "data.source="]))


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The kind of the guide, as if its file lay in the folder of the others."""
    [code] = re.findall(
        r"```python\n(.*?)```", GUIDE.read_text().split("## Add an orchestrator")[0], re.DOTALL
    )
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "table.py").write_text(code)
    [(name, where)] = re.findall(
        r'`"(\w+)": "([\w:]+)",`', GUIDE.read_text().split("## Add an orchestrator")[0]
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "code")])
    monkeypatch.setitem(registry.KINDS, name, where)
    return name


def _tables(folder, **lines):
    folder.mkdir(exist_ok=True)
    for number in range(20):
        (folder / f"{number}.jpg").write_bytes(data.jpeg(number))
    for split, numbers in lines.items():
        text = "".join(f"{number}.jpg,{'bee' if number % 2 else 'ant'}\n" for number in numbers)
        (folder / f"{split}.csv").write_text(text)
    return str(folder)


def test_the_kind_of_the_guide_is_ingested(table, tmp_path):
    folder = _tables(tmp_path / "in", train=range(14), eval=range(14, 21))
    fields = {"kind": table, "source": folder, "max_bad_fraction": 0.1}
    assert found_classes(Data(**fields)) == ["ant", "bee"]
    uri = ingest(tmp_path, **fields).uri
    for split, numbers in (("train", range(14)), ("eval", range(14, 20))):
        found = contents(uri, split)
        assert {name: e["image/class/label"] for name, e in found.items()} == {
            f"{n}.jpg": n % 2 for n in numbers
        }
        assert all(e["image/encoded"] == data.jpeg(int(n[:-4])) for n, e in found.items())
    [missing] = quarantine(uri, "eval").values()
    assert (missing["name"], missing["reason"]) == ("20.jpg", "is not there")


def test_the_cache_sees_the_tables_and_the_code_of_the_kind(table, tmp_path):
    fields = {"kind": table, "source": _tables(tmp_path / "in", train=range(20))}
    first = properties(Data(**fields))
    assert properties(Data(**fields)) == first
    _tables(tmp_path / "in", train=range(19))
    assert properties(Data(**fields))["input_fingerprint"] != first["input_fingerprint"]


def test_a_held_out_part_of_a_new_kind_has_every_class(table, tmp_path):
    folder = _tables(tmp_path / "in", train=range(20), eval=range(20))
    uri = ingest(tmp_path, kind=table, source=folder, eval_split="holdout", holdout=0.2).uri
    found = {split: contents(uri, split) for split in ("train", "eval")}
    assert len(found["train"]) + len(found["eval"]) == 20
    for examples in found.values():
        assert {e["image/class/label"] for e in examples.values()} == {0, 1}


def test_a_kind_without_spans_refuses_them(table, tmp_path):
    with pytest.raises(SourceError, match="kind=table has no spans"):
        source.parts(Data(kind=table, source=str(tmp_path / "{SPAN}")))
