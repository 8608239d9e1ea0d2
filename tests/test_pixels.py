"""One file, one set of pixels: every file of the corpus through every door, and what docs/pixels.md
says.
"""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from components.example_gen.writing import image_files
from models.pixels import decoding
from tests.helpers import corpus, doors
from tests.helpers.doors import Refused

PAGE = Path(__file__).parents[1] / "docs" / "pixels.md"
# Levels. The same graph answers at all doors of the model, of which the probabilities tell the
# pixels; the Trainer's input is another program.
SAME, TRAINED = 1e-3, 0.01
MODEL, SERVER = ("serving_default", "classify", "evaluate"), ("REST", "gRPC")


class Answer(NamedTuple):
    """What became of a file.

    `seen`: door -> pixels or a refusal; `record` is the signature `evaluate`, given the record of
    ingestion. `sent`: of client and page, why they do not send it, or "".
    """

    file: corpus.File
    ingested: image_files.Image | Refused
    seen: dict[str, doors.Seen]
    sent: dict[str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    for file in corpus.files():
        (path / file.name).write_bytes(file.data)
    return path


@pytest.fixture(scope="module")
def answers(folder, tmp_path_factory):
    """Kind -> answers, of a model for images as they are stored and of one for people's
    photographs.
    """
    page = doors.page(folder, tmp_path_factory.mktemp("page"))
    found = {kind: [] for kind in corpus.kinds()}
    for settings in (doors.STORED, doors.OWN):
        path = doors.exported(settings, str(tmp_path_factory.mktemp("model") / "1"))
        # What a server does to bytes is no matter of these settings: one is enough.
        with doors.served(path) if settings is doors.OWN else contextlib.nullcontext({}) as server:
            asking = {**doors.signatures(path), **server}
            asked = [_ask(asking, file) for file in corpus.files()]
        kept = [answer for answer in asked if not isinstance(answer.ingested, Refused)]
        crops = doors.trained([answer.ingested for answer in kept], settings)
        views = doors.evaluated([answer.ingested.encoded for answer in kept], settings)
        for answer, crop, view in zip(kept, crops, views, strict=True):
            answer.seen.update(training=crop, evaluation=view)
        for answer in asked:
            answer.sent["client"] = doors.client(folder / answer.file.name)
            answer.sent.update({"page": page[answer.file.name]} if page else {})
            found[answer.file.kind].append(answer)
    return found


def _ask(asking, file):
    ingested = doors.ingest(file.data)
    seen = {name: door(file.data) for name, door in asking.items()}
    if not isinstance(ingested, Refused):
        seen["record"] = asking["evaluate"](ingested.encoded)
    return Answer(file, ingested, seen, {})


@pytest.fixture(scope="module")
def rules():
    """Kind -> what the page says: of ingestion, of model and server, of client and page."""
    rows = re.findall(
        r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|", PAGE.read_text(), re.M
    )
    return {kind: cells for kind, *cells in rows if kind in corpus.kinds()}


def test_the_page_has_a_row_for_each_kind(rules):
    assert list(rules) == corpus.kinds()


@pytest.mark.parametrize("kind", corpus.kinds())
def test_every_door_does_what_the_page_says(kind, answers, rules):
    ingestion, model, senders = (cell.split(" or ") for cell in rules[kind])
    for file, ingested, seen, sent in answers[kind]:
        assert _became(file, ingested) in ingestion, file.name
        for door in seen.keys() & {*MODEL, *SERVER}:
            assert ("refused" if isinstance(seen[door], Refused) else "taken") in model, (
                file.name,
                door,
            )
        for door, problem in sent.items():
            assert ("refused" if problem else "sent") in senders, (file.name, door, problem)


def _became(file, ingested):
    if isinstance(ingested, Refused):
        return "refused"
    return "kept" if ingested.encoded == file.data else "to PNG"


@pytest.mark.parametrize("kind", corpus.kinds())
def test_every_door_sees_the_same_pixels_or_refuses(kind, answers):
    for file, ingested, seen, _ in answers[kind]:
        became, right = _became(file, ingested), seen.get("record")
        if became == "refused":
            assert all(isinstance(one, Refused) for one in seen.values()), file.name
            continue
        assert not isinstance(right, Refused), file.name
        for door, pixels in seen.items():
            if became == "to PNG" and door in (*MODEL, *SERVER):
                assert decoding.NO_IMAGE in pixels.sentence, (file.name, door)
                continue
            wanted = doors.brightest(right) if door == "classify" else right
            largest = np.abs(pixels - wanted).max()
            assert largest < (TRAINED if door == "training" else SAME), (file.name, door)


@pytest.mark.parametrize("kind", corpus.kinds())
def test_every_door_refuses_in_the_same_words(kind, answers):
    for file, ingested, seen, sent in answers[kind]:
        for door, problem in sent.items():
            assert not problem or decoding.NO_IMAGE.lower() in problem.lower(), (file.name, door)
        if isinstance(ingested, Refused):
            said = ingested.sentence
            assert said and "\n" not in said, file.name
            # Each names its own bounds; only ingestion reads what is no JPEG or PNG.
            bound = "pixels" in said or "announces" in said
            if not bound and file.data.startswith((decoding.JPEG, decoding.PNG)):
                for door, refused in seen.items():
                    assert _words(refused) and _words(refused) in said, (file.name, door)


def _words(refused):
    """Without what TensorFlow adds around them."""
    return re.sub(r"^assertion failed: \[|\]$", "", refused.sentence.split("\n")[0])
