"""What the REST and the gRPC client share: errors, labels, waiting and trying again."""

from __future__ import annotations

import abc
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

DEFAULT_MODEL = "resnet"
# Seconds: the first pause between two attempts, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0

_T = TypeVar("_T")


class ClientError(Exception):
    """A request without an answer, or one that was refused.

    Attributes:
      status: HTTP status (over gRPC, what the REST API would have answered), or None when no server
        answered.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Busy(ClientError):
    """A failure that may pass by itself: the request is made again.

    Attributes:
      after: seconds that the server asks to wait.
    """

    def __init__(self, message: str, status: int | None = None, after: float = 0.0) -> None:
        super().__init__(message, status)
        self.after = after


class ImageError(ClientError):
    """A file or address that has no image; the model was not asked."""


class Label(NamedTuple):
    """A class and its probability, 0..1."""

    name: str
    probability: float


class ModelClient(abc.ABC):
    """Talks to one model of one server; every method may be called from any thread.

    Attributes:
      model_name: name of the model.
      timeout: seconds to wait for one answer.
      retries: further attempts, with growing pauses, while the server cannot be reached or is too
        busy.
    """

    model_name: str
    timeout: float
    retries: int

    @abc.abstractmethod
    def predict(
        self,
        instances: Sequence[Any],
        signature_name: str = "serving_default",
        version: int | None = None,
        label: str | None = None,
    ) -> list[Any]:
        """One prediction for each instance.

        Args:
          instances: bytes (encoded images), numbers, nested lists of them, or
            dicts of these by input name.
          version: the version that must answer; None is the newest.
          label: the same by its label, such as "canary"; not together with `version`.

        Returns:
          A value for each instance, or a dict by output name where there are several.

        Raises:
          ClientError: there is no such answer. A version that is not served is status 404, and no
            other answers in its place.
          TypeError: an instance holds something else, such as an array of pixels.
        """

    @abc.abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Name, version and signatures of the model that answers."""

    @abc.abstractmethod
    def _status(self) -> list[dict[str, Any]]:
        """`status` with one attempt."""

    def top_k(
        self, images: Sequence[bytes], version: int | None = None, label: str | None = None
    ) -> list[list[Label]]:
        """The most probable classes of encoded images (JPEG or PNG), best first.

        Uses the model's `top_k` signature, which also sets how many there are.
        """
        rows = self.predict(list(images), "top_k", version, label)
        try:
            return [
                [
                    Label(str(name), float(score))
                    for name, score in zip(row["classes"], row["scores"], strict=True)
                ]
                for row in rows
            ]
        except (KeyError, TypeError, ValueError):
            raise ClientError(
                f"The signature top_k of {self.model_name} does not answer with classes and their"
                " scores."
            ) from None

    def status(self) -> list[dict[str, Any]]:
        """Versions of the model, newest first: `version`, `state` and `status` of each."""
        return retried(self._status, self.retries)

    def wait_until_available(self, seconds: float) -> int:
        """Waits for a version that takes requests; returns its number.

        Raises:
          ClientError: none did within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while True:
            reason = "no version is available"
            try:
                for version in self._status():
                    if version["state"] == "AVAILABLE":
                        return int(version["version"])
            except ClientError as error:
                reason = str(error)
            if time.monotonic() >= deadline:
                raise ClientError(f"{self.model_name} is not ready after {seconds:g} s: {reason}")
            time.sleep(_FIRST_PAUSE)


def retried(attempt: Callable[[], _T], retries: int) -> _T:
    """The result of `attempt`, made again up to `retries` times while it raises Busy."""
    for number in range(retries):
        try:
            return attempt()
        except Busy as error:
            time.sleep(pause(number, error.after))
    return attempt()


def pause(number: int, after: float = 0.0) -> float:
    """Seconds between attempt `number` (from 0) and the next.

    It doubles from attempt to attempt; a random part keeps clients that failed together from coming
    back together.

    Args:
      after: what the server asks for.
    """
    longest = min(_FIRST_PAUSE * 2.0**number, _LONGEST_PAUSE)
    return max(random.uniform(longest / 2, longest), min(after, _LONGEST_PAUSE))


def check_choice(version: int | None, label: str | None) -> None:
    """Raises ClientError when both are given."""
    if version is not None and label is not None:
        raise ClientError(f"Version {version} and label {label} are given: name one of them.")


def not_served(where: str, model_name: str, version: int | None, text: str) -> ClientError:
    """The server at `where` has not the model or version, and says so with `text`."""
    hint = "" if version is None else " Without a version, the newest answers."
    return ClientError(
        f"{where} serves no such model or version as {model_name} ({text.rstrip('.')}).{hint}", 404
    )


def no_pixels(found: str) -> TypeError:
    """An instance holds `found` where it cannot be sent."""
    return TypeError(
        f"An instance holds {found}: send encoded images as bytes (pixels as JSON are 28 to 55"
        " times larger), other values as numbers, strings, lists and dicts."
    )
