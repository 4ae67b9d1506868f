"""A headless browser for tests, driven by chromedriver through the WebDriver protocol (W3C), which is HTTP and JSON."""

import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request

DRIVER = shutil.which("chromedriver")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "" if DRIVER and BROWSER else "needs chromium and chromedriver"
_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


class Page:
    """An open page; every method is one command of the protocol."""

    def __init__(self, address):
        self._address = address

    def _call(self, command, body):
        request = urllib.request.Request(
            f"{self._address}/{command}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        self.visit(path.as_uri())

    def visit(self, address):
        self._call("url", {"url": address})

    def run(self, script, *arguments):
        """Run the body of a function in JavaScript and return its value."""
        return self._call("execute/sync", {"script": script, "args": arguments})

    def log(self):
        """Return the messages of the console since the last call, errors of the page among them."""
        return [entry["message"] for entry in self._call("se/log", {"type": "browser"})]

    def command(self, name, **parameters):
        """Send a command of the Chrome DevTools Protocol."""
        return self._call("goog/cdp/execute", {"cmd": name, "params": parameters})

    def screenshot(self, path, width, height=None, scheme="light"):
        """Write a PNG file of the page at a width in pixels, down to its end if no height is given."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", height=height or 800, **size)
        if height is None:
            height = self.run("return document.documentElement.scrollHeight")
            self.command("Emulation.setDeviceMetricsOverride", height=height, **size)
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def browser(folder):
    """Context manager that starts a browser and yields a `Page`.

    Args:
      folder: where the browser keeps its profile.
    """
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        # "ChromeDriver was started successfully on port 12345."
        port = next(line.split()[-1].rstrip(".") for line in driver.stdout if "on port" in line and "success" in line)
        page = Page(f"http://127.0.0.1:{port}")
        options = {"binary": BROWSER, "args": [*_ARGUMENTS, f"--user-data-dir={folder}"]}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
        identifier = page._call("session", {"capabilities": wanted})["sessionId"]
        page._address += f"/session/{identifier}"
        try:
            yield page
        finally:
            request = urllib.request.Request(page._address, method="DELETE")
            urllib.request.urlopen(request, timeout=60).close()
    finally:
        driver.terminate()
        driver.communicate(timeout=60)
