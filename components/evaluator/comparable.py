"""Which pushed version a candidate is compared with, and which one a training starts from."""

from __future__ import annotations

import os
from typing import NamedTuple

from google.protobuf import message
from tensorflow.core.protobuf import saved_model_pb2

from components import files, pushed
from components.evaluator import evaluation
from models.settings import Model, Transform
from models.weights import finetune, pretrained


class Found(NamedTuple):
    """A version.

    Attributes:
      path: its folder, "" for none.
      note: which newer versions were passed over and why, or why nothing was looked for; "" for
        neither.
    """

    path: str
    note: str = ""


def newest_comparable(folder: str, candidate: str, protocol: str) -> Found:
    """The newest whole version of the candidate's classes, which the Evaluator can compare it with.

    Not the candidate's own copy: an unchanged pipeline that runs again would compare it with itself
    and push it twice. A version with other classes would be scored on other labels and always lose,
    and one that is damaged, or somebody else's, must not stand in the way of every model that
    comes: both are passed over.

    Args:
      folder: of pushed versions.
      candidate: folder of a SavedModel.
      protocol: the one that decides; "" asks for no comparison.

    Raises:
      ValueError: the newest such version was not exported with `protocol`. An older one would say
        nothing about what serves.
    """
    if not protocol:
        return Found("", "no comparison is asked for (evaluate.max_top1_increase=1)")
    own, (labels, _) = pushed.checksums(candidate), _described(candidate)
    passed: list[str] = []
    for version in pretrained.versions(folder):
        try:
            old_labels, theirs = _described(version)
        except (*files.errors(), message.DecodeError, LookupError, ValueError) as error:
            passed.append(_said(version, f"no whole model of this project: {_first_line(error)}"))
            continue
        if old_labels != labels:
            passed.append(_said(version, "it has other classes"))
        elif pushed.checksums(version) == own:
            continue
        elif damage := pushed.damage(version):
            passed.append(_said(version, f"it is damaged: {damage}"))
        elif protocol not in theirs:
            raise ValueError(
                f"The candidate cannot be compared with {version}, which was exported with"
                f" evaluate.protocols={','.join(sorted(theirs))}: set evaluate.protocol (now"
                f" {protocol}) to one that both have, or evaluate.max_top1_increase=1 to push"
                " without comparison."
            )
        else:
            return Found(version, _note(passed))
    return Found("", _note(passed))


def newest_same_network(folder: str, model: Model, transform: Transform) -> Found:
    """The newest whole version that a training of `model` can start from."""
    passed: list[str] = []
    for version in pretrained.versions(folder):
        if damage := pushed.damage(version):
            passed.append(_said(version, f"it is damaged: {damage}"))
            continue
        try:
            finetune.check(version, pretrained.load(version), model, transform)
        except ValueError as error:
            passed.append(_said(version, _first_line(error)))
            continue
        return Found(version, _note(passed))
    return Found("", _note(passed))


def _note(passed: list[str]) -> str:
    return f"passed over {'; '.join(passed)}" if passed else ""


def _said(version: str, why: str) -> str:
    return f"version {os.path.basename(version)} ({why})"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _described(path: str) -> tuple[str, set[str]]:
    """Classes and test protocols of a SavedModel."""
    labels = files.read(os.path.join(path, "assets", "labels.txt")).decode()
    content = files.read(os.path.join(path, "saved_model.pb"))
    model = saved_model_pb2.SavedModel.FromString(content)
    protocols = set(model.meta_graphs[0].signature_def[evaluation.SIGNATURE].outputs)
    if not protocols:
        raise LookupError(f"it has no signature {evaluation.SIGNATURE}")
    return labels, protocols
