"""Exports that the tests of this folder share."""

import pytest

from tests.helpers import serving_models as models


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Folder of exports: dense, dense_double, image, broken."""
    root = tmp_path_factory.mktemp("exports")
    models.export_dense(root / "dense")
    models.export_dense(root / "dense_double", 2.0)
    models.export_image(root / "image")
    models.export_broken(root / "broken")
    return root
