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
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO, NamedTuple

from models.weights.file_bounds import Refused

# A network of 1202 layers with the state of its optimizer takes half a million.
MOST_STEPS = 2_000_000
_LONGEST = 1000
# Those that bring their value along.
_VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
    + (
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
    )
    + ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict")


class Global(NamedTuple):
    """What a pickle names: a class or a function, as MODULE.NAME."""

    name: str


class Inert:
    """What a pickle makes by a call that is not known here.

    Attributes:
      of: the name of what it calls.
      state: the attributes that it gives, a dictionary as a rule; None without any.
    """

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
      persistent: what a persistent id stands for.
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
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._calls = calls
        self._persistent = persistent
        self._left = most

    def step(self, name: str, argument: Any) -> None:
        self._charge(1)
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif (run := _STEPS.get(name)) is not None:
            run(self, argument)
        else:
            raise Refused(f"has the opcode {name} in a pickle, which no file of weights has")

    def _charge(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise Refused(
                "has a pickle of more steps than weights need; save model.state_dict() alone"
            )

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self.stack))

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self.stack):
            self._marks.pop()
        else:
            self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _nothing(self, _: Any) -> None:
        pass

    def _put(self, argument: Any) -> None:
        self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]

    def _get(self, argument: Any) -> None:
        self.stack.append(self._memo[argument])

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_set(self, _: Any) -> None:
        self.stack.append(Inert("set"))

    def _frozen_set(self, _: Any) -> None:
        self._since_mark()
        self.stack.append(Inert("frozenset"))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(_dictionary(zip(items[::2], items[1::2], strict=True)))

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([(key, value)])

    def _set_items(self, _: Any) -> None:
        items = self._since_mark()
        self._update(zip(items[::2], items[1::2], strict=True))

    def _update(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_dictionary(pairs))

    def _global(self, argument: str) -> None:
        self.stack.append(Global(argument.replace(" ", ".", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        # The name is a copy of both.
        if not all(type(text) is str and len(text) <= _LONGEST for text in (name, module)):
            raise Refused("names a class by something that is no short text")
        self.stack.append(Global(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self._called(function, arguments))

    def _new_with_names(self, _: Any) -> None:
        _, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(self._called(function, arguments))

    def _instance(self, argument: str) -> None:
        arguments = tuple(self._since_mark())
        self.stack.append(self._called(Global(argument.replace(" ", ".", 1)), arguments))

    def _object(self, _: Any) -> None:
        function, *arguments = self._since_mark()
        self.stack.append(self._called(function, tuple(arguments)))

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or type(arguments) is not tuple:
            return Inert("an object")
        if function.name in _DICTIONARIES:
            pairs = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else []
            self._charge(len(pairs))
            return _dictionary(pairs)
        if function.name.startswith("torch._tensor._rebuild_from_type"):  # a tensor with attributes
            return self._called(arguments[0], arguments[2])
        if function.name in self._calls:
            self._charge(len(arguments))
            return self._calls[function.name](*arguments)
        return Inert(function.name)

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _persistent_id(self, argument: Any) -> None:
        if self._persistent is None:
            raise Refused("refers to something outside its pickle")
        self.stack.append(self._persistent(argument))

    def _persistent_id_of_stack(self, _: Any) -> None:
        self._persistent_id(self.stack.pop())


def _dictionary(pairs: Iterable[Any]) -> dict[Any, Any]:
    return {key: value for key, value in pairs if is_key(key)}


def is_key(key: Any) -> bool:
    """Whether it may be a key of a dictionary: the hash of a long number or of tuples may take any
    time.
    """
    if type(key) is str:
        return len(key) <= _LONGEST
    return type(key) is float or (type(key) is int and abs(key) < 2**63)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._nothing,
    "FRAME": _Machine._nothing,
    "STOP": _Machine._nothing,
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "EMPTY_LIST": _Machine._empty_list,
    "EMPTY_DICT": _Machine._empty_dict,
    "EMPTY_SET": _Machine._empty_set,
    "FROZENSET": _Machine._frozen_set,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_with_names,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._persistent_id,
    "BINPERSID": _Machine._persistent_id_of_stack,
}
