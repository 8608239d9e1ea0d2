"""Which code runs: the commit of the checkout, or the version of the wheel."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess

_PACKAGE = "resnet-tfx"


def commit() -> tuple[str, bool]:
    """Short name of the checkout's commit, and whether its files differ from it; "" and False
    outside of a checkout, or without git.
    """
    here = os.path.dirname(os.path.abspath(__file__))

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", here, *args], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An environment in somebody else's checkout is none of this project.
        own = git("ls-files", "--error-unmatch", os.path.abspath(__file__))
        found = git("rev-parse", "--short", "HEAD") if own else ""
        return found, bool(found and git("status", "--porcelain", "--untracked-files=no"))
    except FileNotFoundError:  # no git on this machine
        return "", False


def release() -> str:
    """Version of the installed package; "" of a checkout that was never installed."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def name() -> str:
    """The commit, with a + where files differ from it, or else the release; "" for neither."""
    found, changed = commit()
    return f"{found}+" if changed else found or release()
