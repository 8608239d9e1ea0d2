"""The report in a real Chromium: no network, phones, dark, keyboard, print."""

import pytest

from tests.helpers.browser import Browser, find_chromium
from tests.helpers.reports import Made

pytestmark = pytest.mark.skipif(
    not find_chromium(),
    reason="looks at the page in a browser: needs Debian's chromium, or Google Chrome",
)
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PICTURE = "document.querySelector('.zoom img').getBoundingClientRect().width"
OPEN = "document.querySelectorAll('details').forEach(one => one.open = true)"
# Luminance of a colour of the page, 0 to 1.
LIGHT = """(name => { const [r, g, b] = getComputedStyle(document.querySelector(name[0]))[name[1]]
  .match(/[\\d.]+/g).map(Number); return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255 })"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    made = Made(
        tmp_path_factory.mktemp("run") / "made",
        [f"a class with a rather long name, number {number}" for number in range(60)],
        200,
        file_name=("folder/" + "long" * 20 + "{}.jpg").format,
    )
    made.written()
    return f"file://{made.path('report', 'report.html')}"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_and_nothing_is_asked_for(browser, address, width):
    browser.resize(width, 900, phone=width < 500)
    browser.open(address)
    browser.run(OPEN)
    assert browser.run(WIDER) == 0
    assert browser.complaints == []
    asked = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_dark_and_light_are_the_persons(browser, address):
    found = {}
    for scheme in ("light", "dark"):
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(address)
        colours = (["body", "backgroundColor"], ["body", "color"], ["figure svg", "color"])
        found[scheme] = [browser.run(f"{LIGHT}({list(one)})") for one in colours]
    browser.prefer(prefers_color_scheme="light")
    (light, ink, drawn), (dark, pale, drawn_pale) = found["light"], found["dark"]
    assert light > 0.9 > 0.3 > max(ink, drawn)
    assert dark < 0.2 < 0.7 < min(pale, drawn_pale)


def test_the_picture_is_zoomed_by_keys_alone(browser, address):
    browser.resize(1280, 900)
    browser.open(address)
    small = browser.run(PICTURE)
    assert small == 60 * (500 // 60)
    browser.run("document.querySelector('.zoom input').focus()")
    arrow = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, **arrow)
    assert browser.run(PICTURE) == 2 * small
    box = "document.querySelector('.zoom .scroll')"
    assert browser.run(f"{box}.scrollWidth > 0 && {box}.tabIndex === 0")


def test_what_scrolls_can_be_reached_and_has_a_name(browser, address):
    browser.resize(390, 900, phone=True)
    browser.open(address)
    browser.run(OPEN)
    lost = browser.run(
        """[...document.querySelectorAll('body *')].filter(one =>
        one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== 'visible' &&
        (one.tabIndex !== 0 || !one.ariaLabel)).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert lost == []
    assert browser.run("document.querySelectorAll('main, header, nav').length") == 3


def test_on_paper_there_is_no_control(browser, address):
    browser.resize(800, 1000)
    browser.open(address)
    browser.send("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('nav, .zoom input')].filter(e => e.offsetParent).length"
    assert browser.run(shown) == 0
    assert browser.run(WIDER) == 0
    browser.send("Emulation.setEmulatedMedia", media="")
