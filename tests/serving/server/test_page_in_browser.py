"""The page in a real Chromium, before a real server process."""

import base64
import io
import json
import os
import shutil
import time
import urllib.request

import keras
import pytest
import tensorflow as tf
from PIL import Image

from serving.client import Client, ClientError
from tests.helpers.browser import Browser, find_chromium
from tests.helpers.serving_models import export_image, png, publish
from tests.serving.server.test_server_process import Server

pytestmark = pytest.mark.skipif(
    not find_chromium(),
    reason="drives the page in a browser: needs Debian's chromium, or Google Chrome",
)

RED, GREEN, BLUE = png((255, 0, 0)), png((0, 255, 0)), png((0, 0, 255))
# Version 2 takes green for red and red for green.
SWAPPED = ["green", "red", "blue"]
NO_IMAGE = "The bytes are no JPEG or PNG; convert the image to PNG, which loses nothing."
EVALUATION = {
    "examples": 360,
    "protocol": "center",
    "protocols": {
        "center": {"top1_error": 0.0278, "top5_error": 0.0, "cross_entropy": 0.12345},
        "ten_crop": {"top1_error": 0.0361, "top5_error": None},
    },
}
CONFIG = """model_config_list {{
  config {{ name: "colours" base_path: "{0}/colours" model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
    version_labels {{ key: "stable" value: 1 }} }}
  config {{ name: "numbers" base_path: "{0}/numbers" model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }} }}
}}"""

# JavaScript that the tests share.
READY = "document.getElementById('health').dataset.state === 'ready'"
SETTLED = """document.querySelectorAll('.card').length === {} &&
  [...document.querySelectorAll('.card')].every(card => card.querySelector('.problem, .column')) &&
  [...document.querySelectorAll('.column')].every(c => ['done', 'failed'].includes(c.dataset.state))"""
COLUMNS = """[...document.querySelectorAll('.column')].map(column => ({
  head: column.querySelector('h4').textContent, side: column.querySelector('.side').textContent,
  names: [...column.querySelectorAll('.name')].map(e => e.textContent),
  shares: [...column.querySelectorAll('.share')].map(e => e.textContent),
  widths: [...column.querySelectorAll('.fill')].map(e => e.style.width),
  problem: column.querySelector('.problem')?.textContent ?? null,
  box: column.getBoundingClientRect().toJSON() }))"""


def export_float_top_k(path):
    """A top_k that takes numbers, so that the server refuses images with a hint."""
    archive = keras.export.ExportArchive()
    archive.track(keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]))
    spec = tf.TensorSpec([None], tf.float32, name="x")

    def outputs(x):
        return {"classes": tf.strings.as_string(x[:, None]), "scores": x[:, None]}

    for name in ("serving_default", "top_k"):
        archive.add_endpoint(name, outputs, [spec])
    archive.write_out(str(path), verbose=False)
    return path


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    return export_image(tmp_path_factory.mktemp("swapped") / "export", SWAPPED)


@pytest.fixture(scope="module")
def site(exports, swapped, tmp_path_factory):
    """A server of `colours`, versions 1 and 2, and of `numbers`, which has no top_k for images."""
    root = tmp_path_factory.mktemp("site")
    publish(exports / "image", root / "colours", 1)
    publish(swapped, root / "colours", 2)
    publish(exports / "dense", root / "numbers", 1)
    publish(export_float_top_k(root / "float"), root / "numbers", 2)
    (root / "colours/1/assets.extra").mkdir(exist_ok=True)
    (root / "colours/1/assets.extra/pixels.json").write_text('{"upright": true}')
    (root / "colours/2/assets.extra/evaluation.json").write_text(json.dumps(EVALUATION))
    (root / "models.config").write_text(CONFIG.format(root))
    server = Server(None, f"--model_config_file={root}/models.config")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Browser(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()


@pytest.fixture
def page(browser, site):
    """The page, ready, in a desktop's window; afterwards it must have left nothing to complain
    about.
    """
    yield opened(browser, site)
    assert browser.complaints == []
    for event in browser.seen("Network.requestWillBeSent"):
        address = event["request"]["url"].removeprefix("blob:")
        assert address.startswith((f"{site.url}/", "about:blank"))


def opened(browser, site):
    browser.resize(1280, 800)
    browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
    browser.open(f"{site.url}/")
    browser.wait(READY)
    return browser


@pytest.fixture
def picture(tmp_path):
    """Writes a file and gives its path."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def add(page, *paths):
    before = page.run("document.querySelectorAll('.card').length")
    page.choose_files("#files", paths)
    page.wait(SETTLED.format(before + len(paths)))


def columns(page):
    return page.run(COLUMNS)


def select(page, name, value):
    page.run(f"""(() => {{ const list = document.getElementById('{name}'); list.value = '{value}';
      list.dispatchEvent(new Event('change', {{bubbles: true}})); }})()""")


def compare(page, images):
    select(page, "other", "1")
    page.wait(f"document.querySelectorAll('.column').length === {2 * images}")
    page.wait(SETTLED.format(images))


def text(page, selector):
    return page.run(f"document.querySelector('{selector}').innerText")


def predictions(page):
    """Address and body of every request for a prediction."""
    sent = [event["request"] for event in page.seen("Network.requestWillBeSent")]
    return [(r["url"], json.loads(r["postData"])) for r in sent if r["method"] == "POST"]


def forgive(page, status):
    """Chromium writes each refused request into the console: exactly those are expected."""
    assert page.complaints
    assert all(f"status of {status} " in complaint for complaint in page.complaints), (
        page.complaints
    )
    page.complaints.clear()


def test_a_chosen_file_gets_its_bars(page, site, picture):
    add(page, picture("leaf.png", png((40, 160, 0))))
    (column,) = columns(page)
    assert column["head"] == "Version 2"
    assert column["names"] == ["red", "green"]  # version 2 swaps them
    assert column["shares"] == ["80.0%", "20.0%"]
    assert [float(width.rstrip("%")) for width in column["widths"]] == pytest.approx([80, 20])
    assert column["side"].endswith(" ms") and float(column["side"].split()[0]) > 0
    assert text(page, ".card h3") == "leaf.png"
    assert text(page, ".card .hint") == "8 × 6, 1 KB"
    assert text(page, "#announcer").startswith("leaf.png: red, 80.0%, version 2, ")
    ((address, body),) = predictions(page)
    assert address == f"{site.url}/v1/models/colours/versions/2:predict"
    assert body["signature_name"] == "top_k"


def test_what_is_known_of_a_version(page):
    facts = text(page, "#facts")
    assert "Version 2" in facts and "97.2%" in facts and "top-1 accuracy" in facts
    assert "100.0% top-5, on 360 evaluation images, protocol center" in facts
    page.run("document.querySelector('details').open = true")
    rows = page.run(
        "[...document.querySelectorAll('tbody tr')].map(r => r.innerText.split(/\\s+/))"
    )
    assert rows == [["center", "97.2%", "100.0%", "0.1235"], ["ten_crop", "96.4%", "–", "–"]]
    head = page.run("[...document.querySelectorAll('thead th')].map(e => e.innerText)")
    assert head == ["Protocol", "Top-1", "Top-5", "Cross entropy"]
    select(page, "version", "1")
    assert (
        " ".join(text(page, "#facts").split())
        == "Version 1 stable No evaluation came with this version."
    )


def test_two_versions_side_by_side(page, picture):
    add(page, picture("red.png", RED), picture("blue.png", BLUE))
    compare(page, 2)
    first, second = columns(page)[:2]
    assert (first["head"], second["head"]) == ("Version 2", "Version 1")
    assert (first["names"][0], second["names"][0]) == ("green", "red")
    assert second["side"].startswith("stable, ")
    assert first["box"]["y"] == second["box"]["y"] and first["box"]["right"] < second["box"]["x"]
    verdicts = page.run("[...document.querySelectorAll('.verdict')].map(e => e.textContent)")
    assert verdicts == ["The versions disagree: green or red.", "Both versions say blue."]
    asked = len(predictions(page))
    select(page, "other", "")
    assert len(columns(page)) == 2
    compare(page, 2)
    assert len(predictions(page)) == asked == 4  # what is known is not asked again


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_cut_off_in_any_width(page, picture, width):
    add(page, picture("a-name-that-is-long-and-has-no-place-to-break-" * 3 + ".png", RED))
    compare(page, 1)
    page.resize(width, 844, phone=width < 768)
    assert page.run("document.documentElement.scrollWidth") <= width
    first, second = columns(page)
    assert first["box"]["y"] == second["box"]["y"]
    # Boxes whose text is wider than they are.
    cut = (
        "[...document.querySelectorAll('body *:not(.unseen)')].filter(e => e.clientWidth && "
        "e.scrollWidth > e.clientWidth + 1 && e.tagName !== 'SELECT').map(e => e.outerHTML)"
    )
    assert page.run(cut) == []


def test_files_are_sent_as_they_are(page, picture):
    stream = io.BytesIO()
    Image.new("RGB", (500, 375), (200, 30, 10)).save(stream, "JPEG", quality=71)
    files = [RED, stream.getvalue()]
    add(page, picture("red.png", files[0]), picture("photo.jpg", files[1]))
    sent = [base64.b64decode(body["instances"][0]["b64"]) for _, body in predictions(page)]
    assert sent == files


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "text"])
def test_other_formats_are_refused_in_the_words_of_the_model(page, picture, kind):
    stream = io.BytesIO(b"no image")
    if kind != "text":
        Image.new("RGB", (24, 16), (0, 0, 255)).save(stream, kind)
    add(page, picture(f"sea.{kind.lower()}", stream.getvalue()))
    assert text(page, ".card .problem") == NO_IMAGE
    assert not predictions(page)


def test_a_stored_rotation_is_shown_as_the_model_sees_it(page, picture):
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20), (255, 0, 0)).save(stream, "JPEG", exif=exif.tobytes())
    add(page, picture("turned.jpg", stream.getvalue()))
    shown = "getComputedStyle(document.querySelector('.shot img')).imageOrientation"
    assert page.run(shown) == "none"
    # Version 1 says that it turns photographs.
    select(page, "version", "1")
    page.wait(f"{shown} === 'from-image'")


def test_a_broken_image_shows_what_the_server_says(page, site, picture):
    broken = picture("cut.jpg", b"\xff\xd8\xff and no more")
    add(page, broken, picture("red.png", RED))
    with pytest.raises(ClientError) as refused:
        Client(site.url, "colours").predict([broken.read_bytes()])
    first, second = columns(page)
    assert first["problem"] and first["problem"] in str(refused.value)
    assert "{{" not in first["problem"]
    assert second["names"][0] == "green"  # the other image has its answer
    assert text(page, ".shot") == "No preview"
    assert (
        page.run("document.querySelector('.failed button')") is None
    )  # it will not do next time either
    forgive(page, 400)


def test_hints_of_the_server_stand_below_its_words(page, picture):
    select(page, "model", "numbers")
    add(page, picture("red.png", RED))
    (column,) = columns(page)
    assert column["problem"].endswith("is not of expected type: float")
    hint = "Hint: this signature takes numbers, serving_default encoded images."
    assert text(page, ".failed .hint") == hint
    forgive(page, 400)


def test_a_version_without_top_k_says_so_and_is_not_asked(page, picture):
    select(page, "model", "numbers")
    select(page, "version", "1")
    assert "This version has no signature top_k" in text(page, "#facts")
    add(page, picture("red.png", RED))
    (column,) = columns(page)
    assert column["problem"] == "This version has no signature top_k: ask it through the API."
    assert predictions(page) == []


def test_what_is_no_image_or_too_large_is_refused_here(page, picture, tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        os.truncate(file.fileno(), 50 * 2**20 + 1)
    paths = [picture("notes.txt", b"hello"), picture("none.png", b""), tmp_path / "huge.jpg"]
    add(page, *paths)
    problems = page.run("[...document.querySelectorAll('.card .problem')].map(e => e.textContent)")
    assert problems[:2] == [NO_IMAGE] * 2
    assert problems[2] == "This image is larger than 50 MB. Choose a smaller one."
    assert predictions(page) == []


def test_names_of_files_are_text(page, picture):
    name = "<img src=x onerror=alert(1)>.png"
    add(page, picture(name, RED))
    assert text(page, ".card h3") == name


def test_at_most_two_requests_at_a_time(page, picture):
    slow = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    page.send("Network.emulateNetworkConditions", latency=300, **slow)  # milliseconds
    add(page, *[picture(f"{i}.png", RED) for i in range(6)])
    page.send("Network.emulateNetworkConditions", latency=0, **slow)
    spans = page.run(
        """performance.getEntriesByType('resource').filter(e => e.name.endsWith(':predict'))
      .map(e => [e.startTime, e.responseEnd])"""
    )
    assert len(spans) == 6
    assert max(sum(start <= at < end for start, end in spans) for at, _ in spans) == 2


def test_dropped_and_pasted_files(page):
    make = """const transfer = new DataTransfer();
      const bytes = Uint8Array.from(atob('{}'), c => c.charCodeAt(0));
      transfer.items.add(new File([bytes], '{}', {{type: 'image/png'}}));"""
    red, blue = (base64.b64encode(image).decode() for image in (RED, BLUE))
    drop = (
        make.format(red, "dropped.png")
        + """
      document.querySelector('footer').dispatchEvent(
        new DragEvent('dragover', {dataTransfer: transfer, bubbles: true, cancelable: true}));
      const lit = document.body.classList.contains('dragging');
      document.querySelector('footer').dispatchEvent(
        new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
      return lit && !document.body.classList.contains('dragging');"""
    )
    assert page.run(f"(() => {{ {drop} }})()")
    paste = (
        make.format(blue, "pasted.png")
        + """document.dispatchEvent(
        new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}));"""
    )
    page.run(f"(() => {{ {paste} }})()")
    page.wait(SETTLED.format(2))
    assert page.run("[...document.querySelectorAll('.card h3')].map(e => e.textContent)") == [
        "pasted.png",
        "dropped.png",
    ]
    assert [column["names"][0] for column in columns(page)] == ["blue", "green"]
    page.run(
        "dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(), cancelable: true}))"
    )
    assert text(page, "#problem").startswith("There was no image file in that.")


def test_a_picture_from_the_camera(page):
    page.run("document.getElementById('open-camera').click()")
    page.wait("!document.getElementById('take').disabled")
    assert page.run("document.activeElement.id") == "take"
    page.press("Enter", text="\r")
    page.wait(SETTLED.format(1))
    assert text(page, ".card h3") == "Camera picture 1.png"
    (column,) = columns(page)
    assert column["names"][0] == "red"  # Chromium's test picture is green, and version 2 swaps
    assert not page.run("document.getElementById('camera').open")
    page.wait("document.getElementById('video').srcObject === null")


def test_a_camera_that_is_refused(site, tmp_path):
    page = Browser(tmp_path, "--use-fake-ui-for-media-stream=deny")
    try:
        opened(page, site)
        page.run("document.getElementById('open-camera').click()")
        page.wait(
            "document.getElementById('camera-text').textContent.startsWith('The camera cannot')"
        )
        assert (
            text(page, "#camera-text")
            == "The camera cannot be used (Permission denied). Allow it in the address bar, or"
            " choose an image."
        )
        assert page.run("document.getElementById('take').disabled")
        page.press("Escape")
        page.wait("!document.getElementById('camera').open")
    finally:
        page.close()


def test_without_access_to_a_camera_the_phone_s_own_is_opened(page):
    page.run("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})")
    page.send("Page.setInterceptFileChooserDialog", enabled=True)
    page.run("document.getElementById('open-camera').click()")
    page.wait_for_event("Page.fileChooserOpened")
    page.send("Page.setInterceptFileChooserDialog", enabled=False)
    assert page.run("document.getElementById('capture').getAttribute('capture')") == "environment"


def test_everything_is_reached_and_used_with_the_keyboard(page, picture):
    add(page, picture("red.png", RED), picture("blue.png", BLUE))
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    focused = """(() => { const e = document.activeElement; const ring = e.id === 'files' ? e.labels[0] : e;
      const style = getComputedStyle(ring);
      return [e.id || e.getAttribute('aria-label') || e.innerText, style.outlineStyle !== 'none' &&
        parseFloat(style.outlineWidth) >= 2]; })()"""
    order = []
    for _ in range(10):
        page.press("Tab")
        order.append(page.run(focused))
    assert [name for name, _ in order] == [
        "Skip to the images",
        "model",
        "version",
        "other",
        "Every protocol",
        "files",
        "open-camera",
        "remove-all",
        "Remove red.png",
        "Remove blue.png",
    ]
    assert all(ring for _, ring in order)


def test_keys_choose_files_and_close_the_camera(page):
    page.send("Page.setInterceptFileChooserDialog", enabled=True)
    page.run("document.getElementById('files').focus()")
    page.press("Enter", text="\r")
    assert page.wait_for_event("Page.fileChooserOpened")["mode"] == "selectMultiple"
    page.send("Page.setInterceptFileChooserDialog", enabled=False)
    page.run("document.getElementById('open-camera').focus()")
    page.press("Enter", text="\r")
    page.wait("!document.getElementById('take').disabled")
    page.press("Escape")
    page.wait("!document.getElementById('camera').open")
    assert page.run("document.activeElement.id") == "open-camera"
    page.wait("document.getElementById('video').srcObject === null")


def test_the_focus_stays_in_the_list_when_images_are_removed(page, picture):
    add(page, picture("red.png", RED), picture("blue.png", BLUE))
    page.run("document.querySelector('.remove').click()")
    assert page.run("document.activeElement.getAttribute('aria-label')") == "Remove blue.png"
    page.run("document.querySelector('.remove').click()")
    assert page.run("document.activeElement.id") == "files"
    assert page.run("document.getElementById('list-head').hidden")


def test_every_control_has_a_name_and_headings_do_not_skip(page, picture):
    add(page, picture("red.png", RED))
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    shown = [
        (n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]
    ]
    controls = [
        found for found in shown if found[0] in ("button", "combobox", "link", "DisclosureTriangle")
    ]
    assert ("combobox", "Compare with") in controls and ("button", "Remove red.png") in controls
    assert all(name for _, name in controls)
    levels = page.run(
        "[...document.querySelectorAll('main *, h1')].filter(e => /^H\\d$/.test(e.tagName) && "
        "e.checkVisibility()).map(e => +e.tagName[1])"
    )
    assert all(after <= before + 1 for before, after in zip([1, *levels], levels, strict=False))
    assert page.run("document.documentElement.lang") == "en"


# WCAG 2.2's contrast of every text with what lies behind it.
CONTRAST = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; }
    return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest(':disabled, noscript')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push([e.outerHTML.slice(0, 80), ratio.toFixed(2)]);
  }
  return poor;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_all_text(page, picture, scheme):
    page.prefer(prefers_color_scheme=scheme)
    add(page, picture("red.png", RED), picture("notes.txt", b"hello"))
    select(page, "other", "1")
    page.wait(SETTLED.format(2))
    page.run("document.querySelector('details').open = true")
    assert page.run(CONTRAST) == []
    page.run("document.getElementById('health').dataset.state = 'down'")
    page.run("document.getElementById('camera').showModal()")
    assert page.run(CONTRAST) == []
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(15, 18, 24)") == (scheme == "dark")


def test_nothing_moves_for_those_who_want_it_so(page, picture):
    page.prefer(prefers_reduced_motion="reduce")
    page.choose_files("#files", [picture("red.png", RED)])
    page.wait("document.getAnimations().length === 0 && " + SETTLED.format(1))
    names = page.run(
        "[...document.querySelectorAll('.card, .fill')].map(e => getComputedStyle(e).animationName)"
    )
    assert set(names) == {"none"}


@pytest.fixture
def changing(exports, tmp_path):
    """A server of versions 1 and 2 that looks for others all the time."""
    publish(exports / "image", tmp_path / "resnet", 1)
    publish(exports / "image", tmp_path / "resnet", 2)
    server = Server(tmp_path / "resnet", "--num_versions=2", "--file_system_poll_wait_seconds=0.05")
    yield server, tmp_path / "resnet"
    server.process.kill()
    server.process.communicate()


def loaded(server):
    with urllib.request.urlopen(f"{server.url}/page/models.json") as answer:
        return [version["number"] for version in json.load(answer)["models"][0]["versions"]]


def wait_loaded(server, numbers):
    end = time.monotonic() + 60
    while loaded(server) != numbers:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_versions_come_and_go_without_a_reload(browser, changing, swapped, picture):
    server, base = changing
    page = opened(browser, server)
    assert page.run("document.getElementById('model-field').hidden")
    add(page, picture("red.png", RED))
    compare(page, 1)
    assert [(c["head"], c["names"][0]) for c in columns(page)] == [
        ("Version 2", "red"),
        ("Version 1", "red"),
    ]

    publish(swapped, base, 3)  # takes the place of 1
    page.wait("document.querySelector('h4')?.textContent === 'Version 3'")
    page.wait(SETTLED.format(1))
    assert [(c["head"], c["names"][0]) for c in columns(page)] == [("Version 3", "green")]
    assert (
        text(page, "#notice") == "Version 1 is no longer loaded; there is nothing to compare with."
    )

    # A version that goes between two looks of the page: the request itself finds out.
    shutil.rmtree(base / "1")  # else it comes back for 2
    page.run("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    select(page, "version", "2")
    page.wait(SETTLED.format(1))
    assert page.complaints == []
    shutil.rmtree(base / "2")
    wait_loaded(server, ["3"])
    add(page, picture("blue.png", BLUE))
    page.wait("[...document.querySelectorAll('h4')].every(e => e.textContent === 'Version 3')")
    page.wait(SETTLED.format(2))
    assert [(c["head"], c["names"][0]) for c in columns(page)] == [
        ("Version 3", "blue"),
        ("Version 3", "green"),
    ]
    assert text(page, "#notice") == "Version 2 is no longer loaded; version 3 answers now."
    assert page.run("document.getElementById('version').value") == ""
    assert not page.run("document.getElementById('other-hint').hidden")
    forgive(page, 404)
    assert [address.split("/")[-1] for address, _ in predictions(page)][-2:] == [
        "2:predict",
        "3:predict",
    ]

    shutil.rmtree(base / "3")
    wait_loaded(server, [])
    page.run("delete document.hidden")
    page.wait("document.getElementById('health').textContent === 'No version is loaded yet'")
    assert "Waits for a version to be loaded." in text(page, ".columns")
    publish(swapped, base, 4)
    page.wait("document.querySelector('h4')?.textContent === 'Version 4'")
    page.wait(SETTLED.format(2))
    assert page.complaints == []


def test_a_server_that_stops_is_said_and_an_image_can_be_tried_again(browser, changing, picture):
    server, _ = changing
    page = opened(browser, server)
    server.stop()
    page.wait("document.getElementById('health').dataset.state === 'down'")
    assert text(page, "#health") == "No answer from the server; trying again"
    add(page, picture("red.png", RED))
    (column,) = columns(page)
    assert (
        column["problem"]
        == "The server does not answer. Look whether it still runs, then try again."
    )
    assert text(page, ".failed button") == "Try again"
    assert all("ERR_CONNECTION_REFUSED" in complaint for complaint in page.complaints)
