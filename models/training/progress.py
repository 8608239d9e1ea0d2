"""The line that shows how a training goes."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

import keras

from models.training import terminal
from models.training.callbacks import Run

# Descriptor of the person's terminal, where standard output goes to a log.
PROGRESS_FD = "RESNET_TFX_PROGRESS_FD"
_REFRESH_SECONDS = 0.3
# Columns of the bar of an epoch.
_BAR = 16
_LABELS = {
    "loss": "loss",
    "top1_error": "top-1 error",
    "val_cross_entropy": "validation loss",
    "val_top1_error": "top-1 error",
}


class Progress(keras.callbacks.Callback):
    """One line: epoch, a bar of its steps, images/s, time left, rate, loss, top-1 error.

    On a terminal the line is rewritten a few times a second; elsewhere there is one line an epoch.
    """

    def __init__(self, run: Run, prefix: str = "") -> None:
        super().__init__()
        self.run = run
        self._prefix = f"    {prefix}"
        self._stream = _stream()
        self._live = self._stream.isatty()
        self._shown = 0.0
        # When the present step began (0: none), and the sums of those before.
        self._begun = 0.0
        self._warm = False
        self._seconds = 0.0
        self._steps = 0
        self._validation = 0.0
        self._validation_start = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        now = self._end_step()
        self._begun = now if self._warm else 0.0
        self._warm = True  # the first step compiles, whatever the length of an epoch
        if self._live and now - self._shown >= _REFRESH_SECONDS:
            metrics = self.run.metrics(self.model)
            # A line that wraps could not be rewritten.
            text = self._text(self.run.epoch, metrics, self.run.step)[: self._columns() - 1]
            self._stream.write(f"\r{text}\033[K")
            self._stream.flush()
            self._shown = now

    def on_test_begin(self, logs: dict | None = None) -> None:
        # Reading the metrics waits for the device.
        self.model.get_metrics_result()
        self._validation_start = self._end_step()

    def on_test_end(self, logs: dict | None = None) -> None:
        self._validation = time.monotonic() - self._validation_start

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._end_step()
        self._whole_line(self._text(epoch, logs or {}))

    def say(self, text: str) -> None:
        """Prints a line of its own."""
        self._whole_line(f"{self._prefix}{text}")

    def _whole_line(self, text: str) -> None:
        self._stream.write(f"\r{text}\033[K\n" if self._live else f"{text}\n")
        self._stream.flush()

    def _columns(self) -> int:
        try:
            # 0 is what terminals say that do not know.
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:  # it is gone
            return 80

    def _end_step(self) -> float:
        """Counts the step that is under way, if any; returns the time."""
        now = time.monotonic()
        if self._begun:
            self._seconds += now - self._begun
            self._steps += 1
            images = self._steps * self.run.train.batch_size
            self.run.images_per_second = images / max(self._seconds, 1e-9)
        self._begun = 0.0
        return now

    def _text(self, epoch: int, metrics: dict[str, float], step: int | None = None) -> str:
        run = self.run
        parts = [f"{self._prefix}epoch {epoch + 1}/{run.train.epochs}"]
        if step is not None:
            done = min(_BAR, _BAR * step // run.steps_per_epoch)
            bar = "━" * done + "╌" * (_BAR - done)
            parts.append(f"{bar} step {step}/{run.steps_per_epoch}")
        if run.images_per_second:
            parts += [f"{run.images_per_second:,.0f} images/s", f"ETA {self._left()}"]
        parts.append(f"lr {metrics.get('learning_rate', run.learning_rate):.3g}")
        for name, label in _LABELS.items():
            if name in metrics:
                figure = ".1%" if name.endswith("error") else ".3f"
                parts.append(f"{label} {metrics[name]:{figure}}")
        return "  ".join(parts)

    def _left(self) -> str:
        """Time to the end of the training, h:mm:ss."""
        run, epochs = self.run, self.run.train.epochs
        steps = epochs * run.steps_per_epoch - run.steps_done
        seconds = steps * run.train.batch_size / run.images_per_second
        seconds += (epochs - run.epoch) * self._validation
        hours, rest = divmod(round(max(seconds, 0.0)), 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _stream() -> TextIO:
    """The person's terminal where the caller named it, else standard output."""
    fd = os.environ.get(PROGRESS_FD, "")
    try:
        return terminal.stream(os.dup(int(fd))) if fd.isdigit() else sys.stdout
    except OSError:  # a child process that has not inherited it
        return sys.stdout
