"""Errors of the server: TensorFlow's status codes, whatever protocol carries them."""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """Status codes of TensorFlow and gRPC (same names, same numbers)."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServingError(Exception):
    """A request or a model that cannot be served: a code and TensorFlow Serving's text."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
    """The most frequent one: INVALID_ARGUMENT."""
    return ServingError(Code.INVALID_ARGUMENT, message)
