"""A headless Chromium that opens pages and tells what is wrong with them, through the DevTools protocol."""

import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")

FAULTS = """(async () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  const width = document.documentElement.clientWidth;
  const wide = [...document.body.querySelectorAll("*")].filter((element) =>
    !element.closest(".scroll, pre") && element.getBoundingClientRect().right > width + 1);
  const found = [];
  if (document.documentElement.scrollWidth > width)
    found.push(`scrolls sideways: ${document.documentElement.scrollWidth} > ${width} pixels, for ` +
      wide.slice(-3).map((element) => element.outerHTML.slice(0, 80)).join(" and "));
  for (const image of document.images)
    if (!image.naturalWidth) found.push(`a picture does not load: ${image.alt}`);
  return found;
})()"""


def find() -> str | None:
    """The browser's command, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """A page of the browser. `errors` are what the console showed since the page was opened."""

    def __init__(self, socket):
        self._socket, self._numbers, self._session = socket, itertools.count(1), None
        self._loaded, self.errors = False, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self):
        answer = json.loads(self._socket.recv(timeout=180))
        what, about = answer.get("method"), answer.get("params", {})
        if what == "Page.loadEventFired":
            self._loaded = True
        elif what == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"]["exception"]["description"])
        elif what == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif what == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(str(about["args"]))
        return answer

    def open(self, file: Path, *, width: int, scheme: str = "light", scripts: bool = True) -> None:
        """Opens a file as a window of this width in pixels shows it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._loaded, self.errors = False, []
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def value(self, expression: str):
        """What JavaScript computes in the page."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key, such as ArrowLeft."""
        code = {"ArrowLeft": 37, "Home": 36}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def faults(self) -> list[str]:
        """What is wrong with the page: a console error, sideways scrolling, pictures that do not load."""
        return self.value(FAULTS) + self.errors


@contextlib.contextmanager
def tab(command: str):
    """Starts the browser, and ends it."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen([command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(profile, "DevToolsActivePort")
            end = time.monotonic() + 180  # a machine that does other things, too
            while not (port.exists() and len(port.read_text().split("\n")) >= 2):
                assert browser.poll() is None and time.monotonic() < end, f"{command} did not start"
                time.sleep(0.1)
            number, path = port.read_text().split("\n")[:2]
            with connect(f"ws://127.0.0.1:{number}{path}", max_size=None) as socket:
                yield Tab(socket)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
