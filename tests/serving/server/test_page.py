"""The page's files and page/models.json, without a browser."""

import json
import re
import time
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from test_rest_api import Api

from serving.server.rest_api import page
from serving.server.rest_api.routes import RestApi
from serving.server.server_config import ModelSettings, ServerSettings
from serving.server.versions.manager import Manager
from tests.helpers.serving_models import publish

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "serving/server/static"
PUSHED = 1_763_900_000  # 2025-11-23 12:13:20 UTC
GOOD = {
    "examples": 360,
    "protocol": "center",
    "protocols": {
        "center": {"top1_error": 0.0028, "top5_error": None},
        "ten_crop": {"top1_error": 0.5},
    },
}


def start(*models, **options):
    settings = ServerSettings(models, **options)
    manager = Manager(settings)
    manager.start()
    assert manager.wait_first_look()
    return manager, Api(RestApi(manager, settings))


@pytest.fixture(scope="module")
def base(exports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "image"
    for number in (1, 2, PUSHED):
        publish(exports / "image", folder, number)
    return folder


@pytest.fixture(scope="module")
def site(base, exports):
    publish(exports / "dense", base.parent / "dense", 7)
    (base.parent / "empty").mkdir()
    labels = {"stable": 2, "canary": PUSHED, "newest": PUSHED}
    manager, client = start(
        ModelSettings("image", base, all_versions=True, labels=labels),
        ModelSettings("dense", base.parent / "dense"),
        ModelSettings("empty", base.parent / "empty"),
    )
    yield client
    manager.stop()


def versions(site, name="image"):
    models = site.get("/page/models.json").json()["models"]
    return next(model["versions"] for model in models if model["name"] == name)


def evaluation(base, site, content):
    """What is said of version 2 with this evaluation file."""
    path = base / "2/assets.extra/evaluation.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    try:
        return next(found for found in versions(site) if found["number"] == "2")
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("url", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/?from=mail", "index.html", "text/html; charset=utf-8"),
        ("/page/page.css", "page.css", "text/css; charset=utf-8"),
        ("/page/page.js", "page.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "icon.svg", "image/svg+xml"),
        ("/page/models.json", None, "application/json"),
    ],
)
def test_files_and_their_headers(site, url, name, kind):
    response = site.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "img-src 'self' blob: data:", "frame-ancestors 'none'"} <= set(
        policy
    )
    assert not any("unsafe" in part for part in policy)
    if name:
        assert response.content == (STATIC / name).read_bytes()
        assert site.request("HEAD", url).status_code == 200


def test_every_file_of_the_folder_has_an_address_and_is_in_the_wheel(site):
    files = {path.name for path in STATIC.iterdir()}
    assert files == {name for name, _ in page._FILES.values()}
    wheel = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"serving/server/static/{name}" for name in files} <= wheel


def test_scripts_and_styles_name_no_other_host_and_none_is_inline():
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?:|//[a-z]+\.|@import|innerHTML|insertAdjacentHTML|eval\(", text
        ), path
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]* src=)", html)


@pytest.mark.parametrize(
    "path",
    [
        b"/page",
        b"/page/",
        b"/page/index.html",
        b"/page/../page.py",
        b"/page/../static/page.js",
        b"/page/%2e%2e/page.py",
        b"/page/..%2fpage.py",
        b"/page/..\\page.py",
        b"/page//etc/passwd",
        b"//etc/passwd",
        b"/page/page.js/",
        b"/page/page.js%00",
        b"/page/PAGE.JS",
        b"/static/page.js",
    ],
)
def test_nothing_else_is_served(site, path):
    assert page.Page(Manager(ServerSettings(()))).answer(path) is None
    response = site.get(path.decode())
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


def test_other_methods_are_404(site):
    for method in ("POST", "PUT", "DELETE"):
        assert site.request(method, "/").status_code == 404


def test_models_in_the_order_of_the_configuration(site):
    models = site.get("/page/models.json").json()["models"]
    assert [model["name"] for model in models] == ["image", "dense", "empty"]
    assert models[2]["versions"] == []


def test_versions_newest_first_with_labels_time_and_signatures(site):
    newest, second, first = versions(site)
    assert [v["number"] for v in (newest, second, first)] == [str(PUSHED), "2", "1"]
    assert [v["labels"] for v in (newest, second, first)] == [["canary", "newest"], ["stable"], []]
    assert newest["pushed"] == "2025-11-23T12:13:20+00:00"
    assert second["pushed"] is None
    assert newest["signatures"] == ["classify", "serving_default", "top_k"]
    (dense,) = versions(site, "dense")
    assert "top_k" not in dense["signatures"] and "echo_int32" in dense["signatures"]


def test_a_time_is_no_more_than_a_day_ahead():
    now = int(time.time())
    assert page._time(now + 3600) and page._time(10**9)
    for number in (0, 7, 20_250_101, now + 2 * 86_400, 2**63 - 1):
        assert page._time(number) is None


def test_versions_that_do_not_take_requests_are_not_listed(exports, tmp_path):
    publish(exports / "image", tmp_path / "m", 1)
    publish(exports / "image", tmp_path / "m", 2)
    (tmp_path / "m/2/variables/variables.data-00000-of-00001").unlink()
    manager, client = start(ModelSettings("m", tmp_path / "m", all_versions=True))
    try:
        assert [v["number"] for v in versions(client, "m")] == ["1"]
    finally:
        manager.stop()


def test_without_an_evaluation(site):
    for version in versions(site):
        assert (version["evaluation"], version["evaluation_error"]) == (None, None)


def test_an_evaluation_is_shown_without_what_the_page_does_not_know(base, site):
    found = evaluation(base, site, {**GOOD, "command": "x"})
    assert found["evaluation_error"] is None
    assert found["evaluation"] == GOOD


def test_any_metric_is_shown(base, site):
    protocols = {"center": {"top1_error": 0.0028, "cross_entropy": 2.5, "margin": -1}}
    found = evaluation(base, site, {**GOOD, "protocols": protocols})
    assert found["evaluation"]["protocols"] == protocols


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Invalid JSON: EOF"),
        (b'{"examples": 360, "proto', "Invalid JSON: EOF while parsing a string"),
        (b"\xff\xfe\x00", "Invalid JSON"),
        (b"[" * 60_000, "Invalid JSON"),
        ([], "Input should be an object"),
        ({**GOOD, "protocols": []}, "(protocols: Input should be an object)"),
        ({**GOOD, "protocols": {"center": 1}}, "protocols: center: Input should be an object"),
        ({**GOOD, "protocols": {}}, "(protocol is not one of protocols)"),
        ({**GOOD, "protocol": ["center"]}, "protocol: Input should be a valid string"),
        ({**GOOD, "examples": 0}, "examples: Input should be greater than 0"),
        ({**GOOD, "examples": True}, "examples: Input should be a valid integer"),
        (
            {**GOOD, "protocols": {"center": {"top1_error": 28}}},
            "(top1_error of center is not 0 to 1)",
        ),
        (
            {**GOOD, "protocols": {"center": {"top1_error": "0"}}},
            "center: top1_error: Input should be a valid number",
        ),
        ({**GOOD, "protocols": {"center": {"cross_entropy": float("inf")}}}, "a finite number"),
        ({**GOOD, "protocols": {"center": {"cross_entropy": 10**400}}}, "a finite number"),
        ({**GOOD, "protocols": {"center": {"top5_error": float("nan")}}}, "center: top5_error: "),
        ({**GOOD, "protocols": {"\ud800": {"top5_error": 2}}}, "Invalid JSON"),
    ],
)
def test_a_damaged_evaluation_is_said_and_the_version_stays(base, site, content, reason):
    found = evaluation(base, site, content)
    assert found["evaluation"] is None
    assert found["evaluation_error"].startswith(
        "assets.extra/evaluation.json of this version cannot be used"
    )
    assert found["evaluation_error"].endswith("; push the model again.")
    assert reason in found["evaluation_error"]
    assert found["signatures"]


def test_an_evaluation_that_cannot_be_read(base, site):
    (base / "2/assets.extra/evaluation.json").mkdir()
    try:
        found = next(v for v in versions(site) if v["number"] == "2")
        assert "(Is a directory)" in found["evaluation_error"]
    finally:
        (base / "2/assets.extra/evaluation.json").rmdir()
