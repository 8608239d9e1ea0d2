"""Which code a component runs, for TFX's cache: the modules that it imports from this project.

Comments, docstrings and layout do not count: a network is not trained again for a word.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("models", "components", "pipeline", "serving")


def digest(*modules: str) -> str:
    """sha256 (hexadecimal) of the statements of modules and of all that they import from here.

    Imports inside of functions count. Code of other packages does not: the locks decide about that.

    Args:
      modules: dotted names, in PACKAGES.

    Raises:
      ModuleNotFoundError: there is no such module.
    """
    found = hashlib.sha256()
    for name in sorted(reached(*modules)):
        found.update(f"{name} {_statements(name)}\n".encode())
    return found.hexdigest()


def reached(*modules: str) -> set[str]:
    """Dotted names of the modules and of all modules of this project that they import."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported(name)
            # Its packages are run before it.
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return found


@functools.cache
def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is no module of this project")
    return Path(spec.origin)


def _tree(name: str) -> ast.Module:
    return ast.parse(_path(name).read_bytes())


@functools.cache
def _statements(name: str) -> str:
    """sha256 of a module's syntax tree without docstrings, hexadecimal."""
    tree = _tree(name)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@functools.cache
def _imported(name: str) -> tuple[str, ...]:
    """Modules of this project that a module's source imports."""
    package = name if _path(name).name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found += [base, *_submodules(base, [alias.name for alias in node.names])]
    return tuple(module for module in found if module.partition(".")[0] in PACKAGES)


def _submodules(package: str, names: list[str]) -> Iterator[str]:
    """Those of the names imported from a package that are modules."""
    if package.partition(".")[0] in PACKAGES and _path(package).name == "__init__.py":
        folder = _path(package).parent
        for name in names:
            if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
                yield f"{package}.{name}"
