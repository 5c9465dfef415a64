"""A headless Chromium, driven over the WebDriver protocol by the Python library alone."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

ENTER, ESCAPE, TAB, SHIFT, CONTROL, RELEASE = "\ue007", "\ue00c", "\ue004", "\ue008", "\ue009", "\ue000"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of an element's key


def programs():
    """The paths of the browser and its driver; None where one is missing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    def __init__(self):
        browser, driver = programs()
        self.driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.driver.stdout:
            if started := re.search(r"started successfully on port (\d+)", line):
                break
        self.root = f"http://127.0.0.1:{started.group(1)}/session"
        options = {"binary": browser, "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                                               "--window-size=1280,800", "--no-first-run", "--disable-extensions"]}
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"},
                  "timeouts": {"script": 30000, "pageLoad": 30000}}
        self.root += "/" + self.call("POST", "", {"capabilities": {"alwaysMatch": always}})["sessionId"]

    def close(self):
        self.call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()

    def call(self, method, path, body=None):
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def reload(self):
        self.call("POST", "/refresh")

    def run(self, script, *arguments):
        """What the body of a JavaScript function returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, *arguments, seconds=30):
        """What the expression yields as soon as that is true."""
        until = time.monotonic() + seconds
        while not (value := self.run("return " + script, *arguments)):
            if time.monotonic() > until:
                raise AssertionError(f"not within {seconds} s: {script} {arguments or ''}; the page shows:\n"
                                     + self.run("return document.body.innerText"))
            time.sleep(0.005)
        return value

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector, text):
        """Adds to a field as a keyboard does."""
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def set(self, selector, text):
        """Gives a field or a list of choices a value and tells the page."""
        self.run("const [node, value] = [document.querySelector(arguments[0]), arguments[1]];"
                 "node.value = value; node.dispatchEvent(new Event('input', {bubbles: true}));"
                 "node.dispatchEvent(new Event('change', {bubbles: true}))", selector, text)

    def keys(self, *keys):
        """Presses keys together and lets go of them, wherever the focus is."""
        actions = [{"type": "keyDown", "value": key} for key in keys] + \
                  [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def prefer(self, scheme):
        """The colours that the system asks for: light or dark."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def size(self, width, height, mobile=False):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def log(self):
        """Messages of the console since the last call, with violations of the page's policy among them."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("GET", "/screenshot")))
