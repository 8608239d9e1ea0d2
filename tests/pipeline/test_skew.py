"""`python -m pipeline.skew` on files as they lie about in the world, against real servers."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from components import pixel_skew
from components.serving_validator import model_server
from models.export import export
from models.settings import Transform
from pipeline import skew as command
from tests.helpers import corpus, tiny_net
from tests.helpers.corpus import jpeg, recipes

SETTINGS = Transform(
    size=24, crop="none", test_shorter_side=28, mean="channel", upright=True, shorter_side=48
)


def exported(path, seed=0, settings=SETTINGS):
    export.export(
        tiny_net.network(settings, seed), str(path), ["ant", "bee", "cat", "dog"], ["center"]
    )
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of versions, of which the older one is another model."""
    base = tmp_path_factory.mktemp("model")
    exported(base / "9", seed=1)
    exported(base / "10")
    return base


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    for file in corpus.files(small=True):
        (path / file.name).write_bytes(file.data)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six JPEGs, which a person holds upright, two PNGs and a BMP in a folder of their own."""
    path = tmp_path_factory.mktemp("photos")
    pictures = [recipes.photo(60, 80 + number, number) for number in range(9)]
    for number, picture in enumerate(pictures[:6]):
        (path / f"{number}.jpg").write_bytes(jpeg.noted(jpeg.exif(6))(picture))
    for number, picture in enumerate(pictures[6:8]):
        Image.fromarray(picture).save(path / f"{number}.png")
    (path / "other").mkdir()
    Image.fromarray(pictures[8]).save(path / "other" / "a.bmp")
    return path


def run(capsys, *arguments):
    status = command.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def rows(output):
    """Format -> cells of the table."""
    return {
        line.split()[0]: line.split()[1:] for line in output.splitlines() if line and line[0] != " "
    }


def test_all_files_of_the_world_are_served_as_evaluated(capsys, folder, model):
    status, output, _ = run(capsys, "--data", folder, "--model", model)
    assert status == 0, output
    assert output.endswith("files: served as evaluated.\n")
    table = rows(output)
    files, ingestion, refused, probability, labels = table["JPEG"]
    assert int(files) > 100 and ingestion == refused != "0" and labels == "0"
    assert float(probability) == 0
    # Converted: the server refuses every one, and that is no skew.
    assert table["BMP"][1] == "0" and table["BMP"][2] == table["BMP"][0] and table["BMP"][3] == "-"
    assert table["other"][1] == table["other"][2] == table["other"][0]


def test_a_server_of_another_model_is_noticed_and_the_worst_comes_first(capsys, photos, model):
    with model_server.running(str(model / "9"), model_server.EMBEDDED, 120) as other:
        arguments = ["--data", photos, "--server", other.url, "--model_name", model_server.NAME]
        status, output, _ = run(capsys, *arguments, "--model", model)
        assert status == 1 and "8 of 9 files differ, the worst first:" in output
        differences = [float(part.split()[0]) for part in output.split("differs by ")[1:]]
        assert len(differences) == 8 and min(differences) > 1e-4
        relabelled = [line for line in output.splitlines() if "served as" in line]
        assert int(rows(output)["JPEG"][4]) + int(rows(output)["PNG"][4]) == len(relabelled)
        # The model that it serves.
        status, output, _ = run(capsys, *arguments, "--model", model / "9")
        assert status == 0 and "9 files: served as evaluated" in output


def test_pixels_that_are_served_otherwise_are_noticed(capsys, photos, model, tmp_path):
    """The same network that leaves photographs as they are stored: nothing but the rotation
    differs.
    """
    lying = exported(tmp_path / "1", settings=dataclasses.replace(SETTINGS, upright=False))
    with model_server.running(lying, model_server.EMBEDDED, 120) as other:
        status, output, _ = run(
            capsys,
            "--data",
            photos,
            "--model",
            model,
            "--server",
            other.url,
            "--model_name",
            model_server.NAME,
        )
    assert status == 1 and "6 of 9 files differ" in output and rows(output)["PNG"][3] == "0.0e+00"


def compared(folder, model, ask):
    return {
        one.name: one
        for one in pixel_skew.compare(str(folder), pixel_skew.Model(str(model / "10")), ask)
    }


def test_a_server_that_refuses_or_takes_other_files_than_ingestion_differs(model, tmp_path):
    (tmp_path / "good.jpg").write_bytes(jpeg.plain(recipes.photo(40, 50, 1)))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    Image.fromarray(recipes.photo(40, 50, 2)).save(tmp_path / "a.bmp")
    answer = np.full([4], 0.25, np.float32)
    found = compared(
        tmp_path, model, lambda data: "too dark" if data[:2] == b"\xff\xd8" else answer
    )
    assert found["good.jpg"].skew(0.1) == "the server refuses what ingestion takes: too dark"
    assert found["bad.jpg"].skew(0.1).startswith("the server answers what ingestion refuses: ")
    assert "a probability differs by" in found["a.bmp"].skew(1e-6)
    assert not found["a.bmp"].skew(1) or found["a.bmp"].relabelled
    refused = compared(tmp_path, model, lambda data: "no")
    assert not refused["bad.jpg"].skew(0) and not refused["a.bmp"].skew(0)
    other = compared(tmp_path, model, lambda data: np.array([0.1, 0.9], np.float32))
    assert other["good.jpg"].probability == 1


def test_a_model_without_the_protocol_center_is_compared_too(capsys, photos, tmp_path):
    export.export(tiny_net.network(SETTINGS), str(tmp_path / "1"), None, ["ten_crop"])
    assert run(capsys, "--data", photos, "--model", tmp_path)[0] == 0


def test_bad_input_is_one_sentence(capsys, photos, model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no model")
    for data, served, sentence in (
        (
            tmp_path / "nowhere",
            model,
            "nowhere is not a folder; name one of images as you have them.",
        ),
        (
            tmp_path / "empty",
            model,
            "empty holds no file; name a folder of images as you have them.",
        ),
        (photos, photos, f"{photos} holds no SavedModel; name the folder of a pushed model."),
        (photos, tmp_path / "broken", "broken is no model that this project has exported ("),
    ):
        status, output, said = run(capsys, "--data", data, "--model", served)
        assert status == 2 and not output and sentence in said and said.count("\n") == 1, said


def test_bad_arguments(capsys, photos, model):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--data", str(photos), "--model", str(model), "--tolerance", "2"])
    assert (
        stopped.value.code == 2 and "--tolerance 2: must be from 0 to 1" in capsys.readouterr().err
    )
    status, _, said = run(
        capsys, "--data", photos, "--model", model, "--server", "http://127.0.0.1:1"
    )
    assert (
        status == 2
        and said.startswith("No server answers at http://127.0.0.1:1")
        and said.count("\n") == 1
    )
