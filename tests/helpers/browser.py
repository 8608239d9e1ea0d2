"""Drives a real Chromium over its DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/ lists the methods and events.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path

from websockets.sync.client import connect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-sandbox",  # as root in a container there is none to be had
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--hide-scrollbars",
    # A test picture in place of a camera, and nobody to ask.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_WAIT_SECONDS = 60


def find_chromium():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """A headless Chromium with one tab.

    Args:
      profile: empty folder for its files.
      flags: more of Chromium's own.

    Attributes:
      events: everything that the tab has reported, as (method, parameters).
      complaints: errors in its console, uncaught exceptions and violations of the page's security
        policy.
    """

    def __init__(self, profile: Path, *flags: str):
        command = [find_chromium(), *_FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        self._log = (profile / "log.txt").open("w+")
        self._process = subprocess.Popen(command, stderr=self._log, stdout=subprocess.DEVNULL)
        self.events, self.complaints = [], []
        self._count = 0
        self._session = None
        self._socket = connect(self._address(), max_size=None, proxy=None)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def close(self):
        """Ends the browser."""
        with contextlib.suppress(Exception):
            self._socket.close()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def send(self, method, **parameters):
        """The result of a DevTools method; events that come before it are noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            received = json.loads(self._socket.recv(timeout=_WAIT_SECONDS))
            if received.get("id") == self._count:
                if "error" in received:
                    raise RuntimeError(f"{method}: {received['error']}")
                return received["result"]
            self._note(received)

    def open(self, url):
        """Goes to an address, afresh, and waits until it has loaded."""
        self.send("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.events, self.complaints = [], []
        self.send("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def seen(self, method):
        """Parameters of the events of one kind since `open`."""
        return [parameters for name, parameters in self.events if name == method]

    def wait_for_event(self, method):
        """Parameters of the last event of a kind, once there is one."""
        end = time.monotonic() + _WAIT_SECONDS
        while not (found := self.seen(method)):
            if time.monotonic() > end:
                raise TimeoutError(method)
            self.run("0")  # events come with answers
        return found[-1]

    def run(self, expression):
        """The value of a JavaScript expression in the tab; promises are awaited."""
        done = self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"].get("description", expression))
        return done["result"].get("value")

    def wait(self, condition):
        """Waits until a JavaScript expression is true, and returns it."""
        end = time.monotonic() + _WAIT_SECONDS
        while not (value := self.run(condition)):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{condition}; the page says:\n{self.run('document.body.innerText')}"
                )
            time.sleep(0.05)
        return value

    def choose_files(self, selector, paths):
        """Puts files into an <input type=file>, as its dialog would."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key, code=None, text=""):
        """Presses and releases a key, such as Tab."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        key_event = {"key": key, "code": code or key, "windowsVirtualKeyCode": codes[key]}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **key_event)
        self.send("Input.dispatchKeyEvent", type="keyUp", **key_event)

    def resize(self, width, height, phone=False, scale=1):
        """Sets the size of the window in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    def prefer(self, **features):
        """Media features of the person, such as prefers_color_scheme="dark"."""
        listed = [
            {"name": name.replace("_", "-"), "value": value} for name, value in features.items()
        ]
        self.send("Emulation.setEmulatedMedia", features=listed)

    def screenshot(self, path):
        """Writes what the window shows as a PNG."""
        image = self.send("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(image["data"]))

    def _address(self):
        end = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            for line in Path(self._log.name).read_text(errors="replace").splitlines():
                if line.startswith("DevTools listening on "):
                    return line.split()[-1]
            time.sleep(0.05)
        raise RuntimeError(
            f"Chromium did not start:\n{Path(self._log.name).read_text(errors='replace')}"
        )

    def _note(self, event):
        method, content = event.get("method"), event.get("params", {})
        self.events.append((method, content))
        if method == "Runtime.exceptionThrown":
            self.complaints.append(
                content["exceptionDetails"]["exception"].get("description", "exception")
            )
        elif method == "Runtime.consoleAPICalled" and content["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.complaints.append(
                str([a.get("value", a.get("description")) for a in content["args"]])
            )
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{content['entry']['text']} {content['entry'].get('url', '')}")
