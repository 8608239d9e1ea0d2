"""Asks for many images at the same time, and gives the answers in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from .api import ClientError, ImageError, Label

_T = TypeVar("_T")
_R = TypeVar("_R")

# What says something about one image. Other failures would meet the next image as well.
_OF_THE_IMAGE = (400, 413, 500, 504)


class Answer(NamedTuple):
    """What became of one image."""

    name: str
    labels: list[Label]
    # Why there are no labels; starts with the name.
    error: str = ""


def answer(name: str, ask: Callable[[], list[Label]]) -> Answer:
    """The labels that `ask` returns, or why this image has none.

    Raises:
      ClientError: no image can be asked for.
    """
    try:
        return Answer(name, ask())
    except ImageError as error:
        return Answer(name, [], str(error))
    except ClientError as error:
        if error.status not in _OF_THE_IMAGE:
            raise
        # The lines after the first name nodes of TensorFlow's graph.
        return Answer(name, [], f"{name}: {str(error).splitlines()[0]}")


def in_order(function: Callable[[_T], _R], items: Iterable[_T], jobs: int) -> Iterator[_R]:
    """`function` of each item, `jobs` at a time, in the order of the items.

    Items are taken as they are needed. What `function` raises ends it.
    """
    pool = ThreadPoolExecutor(jobs)
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            # A slow image holds up the answers behind it, not the work.
            if len(waiting) >= 4 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
