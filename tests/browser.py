"""A headless Chromium that tests control over two pipes by its DevTools protocol.

This needs neither a driver program nor a network port.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
TIMEOUT = 60.0  # seconds; long, because machines that run tests may be busy


class Browser:
    """One page of a headless Chromium; its errors and warnings are collected in `problems`."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def connect() -> None:
            # Chromium reads commands from descriptor 3 and answers on 4. The ends of the pipes are
            # duplicated first, because they may have these two numbers themselves, and the first
            # dup2 would then close the end that the second one needs.
            reading, writing = os.dup(to_browser), os.dup(from_browser)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,
            close_fds=False,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self._wait_for_page()
        self._session = self._command(
            "Target.attachToTarget", {"targetId": target, "flatten": True}, session=False
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._command(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        try:
            self._command("Browser.close", session=False)
        except (OSError, AssertionError):
            self._process.kill()
        self._process.wait(TIMEOUT)
        os.close(self._in)
        os.close(self._out)

    def resize(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window in CSS pixels, and the colour scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._command("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._command("Emulation.setEmulatedMedia", {"features": scheme})

    def open(self, address: str) -> None:
        """Load a page anew."""
        self._command("Page.navigate", {"url": "about:blank"})
        self._command("Page.navigate", {"url": address})
        self.until("document.readyState === 'complete'")

    def evaluate(self, script: str):
        """The value of a JavaScript expression, converted by JSON."""
        result = self._command(
            "Runtime.evaluate",
            {"expression": script, "returnByValue": True, "awaitPromise": True},
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            if self.evaluate(f"Boolean({condition})"):
                return
            time.sleep(0.03)
        raise AssertionError(f"within {TIMEOUT} s this did not become true: {condition}")

    def press(self, key: str) -> None:
        """Press a key: a character, or a name such as ArrowRight."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        codes |= {"Enter": 13, "Escape": 27}
        event = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        self._command("Input.dispatchKeyEvent", {"type": "keyDown", **event, **text})
        self._command("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def screenshot(self, path: Path) -> None:
        """Write the visible part of the page as a PNG."""
        data = self._command("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(data))

    def _wait_for_page(self) -> str:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            targets = self._command("Target.getTargets", session=False)["targetInfos"]
            for target in targets:
                if target["type"] == "page":
                    return target["targetId"]
            time.sleep(0.05)
        raise AssertionError("Chromium opens no page")

    def _command(
        self, method: str, parameters: dict | None = None, *, session: bool = True
    ) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _receive(self, end: float) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        method, content = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(content["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning"):
            self.problems.append(json.dumps(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.problems.append(json.dumps(content["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
