"""Pictures of the server's page, with a Chromium on the path and a server that runs with two
versions:

PYTHONPATH=tests/serving python docs/page_png.py http://127.0.0.1:8501/ docs/figures/page IMAGE...
"""

import sys
import tempfile
from pathlib import Path

from browser import Browser

url, prefix, *images = sys.argv[1:]
OTHER = """(() => { const list = document.getElementById('other'); list.selectedIndex = 1;
  list.dispatchEvent(new Event('change', {bubbles: true})); })()"""
DONE = f"""document.querySelectorAll('.column[data-state=done]').length === {2 * len(images)} &&
  document.getAnimations().length === 0"""

with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    browser = Browser(Path(folder))
    for name, width, height, scheme in (
        ("desktop", 1280, 800, "light"),
        ("phone", 390, 844, "dark"),
    ):
        browser.resize(width, height, phone=name == "phone", scale=2 if name == "phone" else 1)
        browser.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        browser.open(url)
        browser.wait("document.getElementById('health').dataset.state === 'ready'")
        browser.run(OTHER)
        browser.choose_files("#files", map(Path.absolute, map(Path, images)))
        browser.wait(DONE)
        browser.screenshot(f"{prefix}-{name}.png")
    browser.close()
