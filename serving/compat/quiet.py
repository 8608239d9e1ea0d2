"""TensorFlow's libraries print while they load, whatever TF_CPP_MIN_LOG_LEVEL says."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def stderr() -> Iterator[None]:
    """Hides what is printed meanwhile, and shows it where that ends with an exception.

    A failed check in C++ (no AVX) ends the process: Python says where it was then.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    screen = os.dup(2)
    faulthandler.enable(screen)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except Exception:
            noise.seek(0)
            os.write(screen, noise.read())
            raise
        finally:
            os.dup2(screen, 2)
            faulthandler.enable(2)
            os.close(screen)
