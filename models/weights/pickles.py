"""Pickles, read opcode by opcode: nothing that they name is imported, called or given attributes.

A pickle is a program. `pickle.Unpickler` runs it, and even where it may call nothing a few bytes
make it take all memory (a memo index of 2**31) or never end (the hash of tuples within tuples).
Here

  - what a pickle calls becomes the value that the reader gives for that name, and else an `Inert`
    object;
  - every opcode costs one step, and everything that is copied one step an item: time and memory are
    bounded by the bytes that are read and `MOST_STEPS`;
  - a dictionary has short keys that are text or numbers; an entry with another key is left out.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

from models.weights.file_bounds import Refused

# A network of 1202 layers with the state of its optimizer takes half a million.
MOST_STEPS = 2_000_000
_LONGEST = 1000
# Opcodes that bring their value along.
_VALUE = re.compile(r"(SHORT_)?(BIN)?(INT|LONG|FLOAT|STRING|UNICODE|BYTES|BYTEARRAY)[1248]?")
_DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict")


class Global(NamedTuple):
    """What a pickle names: a class or a function, as MODULE.NAME."""

    name: str


class Inert:
    """What an unknown call of `of` gives; `state` are the attributes that a pickle gives it."""

    __slots__ = ("of", "state")

    def __init__(self, of: str):
        self.of = of
        self.state: Any = None


def load(
    file: BinaryIO,
    calls: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any] | None = None,
    most: int = MOST_STEPS,
) -> Any:
    """The object of the next pickle, of any protocol; the file stands behind it then.

    Args:
      file: in memory (of a file on disk, a length that is declared is asked for at once).
      calls: MODULE.NAME -> what a call gives, of its arguments.
      persistent: a persistent id -> what it stands for.
      most: steps.

    Returns:
      Dictionaries (ordered), lists, tuples, text (bytes of Python 2 as latin-1), numbers, `Global`,
      `Inert`.

    Raises:
      Refused: it has more steps, or an opcode that no program writes into a file.
      Exception: of whatever kind damaged bytes lead to.
    """
    machine = _Machine(calls, persistent, most)
    for opcode, argument, _ in pickletools.genops(file):
        machine.step(opcode.name, argument)
    return machine.stack[-1]


class _Machine:
    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any] | None,
        most: int,
    ):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._calls = calls
        self._persistent = persistent
        self._left = most

    def step(self, name: str, argument: Any) -> None:
        self._charge(1)
        if _VALUE.fullmatch(name):
            self.stack.append(argument)
        elif name in _PUSHED:
            self.stack.append(_PUSHED[name](self, argument))
        elif name in _DONE:
            _DONE[name](self, argument)
        else:
            raise Refused(f"has the opcode {name} in a pickle, which no file of weights has")

    def _charge(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise Refused(
                "has a pickle of more steps than weights need; save model.state_dict() alone"
            )

    def since_mark(self) -> list[Any]:
        return self.last(len(self.stack) - self.marks.pop())

    def last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def put(self, argument: Any) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_dictionary(_pairs(items)))

    def build(self, state: Any) -> None:
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            return Inert("an object")
        if function.name in _DICTIONARIES:
            pairs = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else []
            self._charge(len(pairs))
            return _dictionary(pairs)
        if function.name.startswith("torch._tensor._rebuild_from_type"):  # a tensor with attributes
            return self.called(arguments[0], arguments[2])
        if function.name in self._calls:
            self._charge(len(arguments))
            return self._calls[function.name](*arguments)
        return Inert(function.name)

    def persistent_id(self, argument: Any) -> Any:
        if self._persistent is None:
            raise Refused("refers to something outside its pickle")
        return self._persistent(argument)


def _dictionary(pairs: Iterable[Any]) -> dict[Any, Any]:
    return {key: value for key, value in pairs if is_key(key)}


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def is_key(key: Any) -> bool:
    """Whether it may be a key of a dictionary: the hash of a long number or of tuples may take any
    time.
    """
    if type(key) is str:
        return len(key) <= _LONGEST
    return type(key) is float or (type(key) is int and abs(key) < 2**63)


def _named(argument: str) -> Global:
    return Global(argument.replace(" ", ".", 1))


def _joined(module: Any, name: Any) -> Global:
    # The name is a copy of both.
    if not all(type(text) is str and len(text) <= _LONGEST for text in (name, module)):
        raise Refused("names a class by something that is no short text")
    return Global(f"{module}.{name}")


# Opcode -> what it puts on the stack of the machine `m`; `a` is its argument.
_PUSHED: dict[str, Callable[[_Machine, Any], Any]] = {
    "NONE": lambda m, a: None,
    "NEWTRUE": lambda m, a: True,
    "NEWFALSE": lambda m, a: False,
    "DUP": lambda m, a: m.stack[-1],
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.memo[a]),
    "EMPTY_LIST": lambda m, a: [],
    "EMPTY_DICT": lambda m, a: {},
    "EMPTY_SET": lambda m, a: Inert("set"),
    "FROZENSET": lambda m, a: m.called(Global("frozenset"), tuple(m.since_mark())),
    "EMPTY_TUPLE": lambda m, a: (),
    "TUPLE": lambda m, a: tuple(m.since_mark()),
    "TUPLE1": lambda m, a: tuple(m.last(1)),
    "TUPLE2": lambda m, a: tuple(m.last(2)),
    "TUPLE3": lambda m, a: tuple(m.last(3)),
    "LIST": lambda m, a: m.since_mark(),
    "DICT": lambda m, a: _dictionary(_pairs(m.since_mark())),
    "GLOBAL": lambda m, a: _named(a),
    "STACK_GLOBAL": lambda m, a: _joined(*m.last(2)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda m, a: m.called(*m.last(2))),
    "NEWOBJ_EX": lambda m, a: m.called(*m.last(3)[:2]),
    "INST": lambda m, a: m.called(_named(a), tuple(m.since_mark())),
    "OBJ": lambda m, a: m.called(m.stack.pop(m.marks[-1]), tuple(m.since_mark())),
    "PERSID": _Machine.persistent_id,
    "BINPERSID": lambda m, a: m.persistent_id(m.stack.pop()),
}
# Opcode -> what else it does.
_DONE: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, a: None),
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "POP": lambda m, a: m.pop(),
    "POP_MARK": lambda m, a: m.since_mark(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    "APPEND": lambda m, a: m.extend(m.last(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, a: m.extend(m.since_mark())),
    "SETITEM": lambda m, a: m.update(m.last(2)),
    "SETITEMS": lambda m, a: m.update(m.since_mark()),
    "BUILD": lambda m, a: m.build(m.stack.pop()),
}
