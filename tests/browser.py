"""A headless Chromium that a test drives by the DevTools protocol, over pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. Use as a context manager."""

    def __init__(self, width: int = 1600, height: int = 1000, *, reach: str = "127.0.0.1") -> None:
        assert CHROMIUM is not None
        self._profile = tempfile.mkdtemp()
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()

        def hand_over() -> None:  # Chromium reads commands from 3 and answers on 4
            os.dup2(to_child, 13)
            os.dup2(from_child, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        flags += ["--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={self._profile}"]
        # Other hosts than the one to reach fail at once instead of after a while.
        flags += [f"--window-size={width},{height}", f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {reach}"]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._number, self._rest = 0, b""
        self._session = ""
        self.requests: list[str] = []
        target = self._wait(lambda: self._page(), 30)
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")

    def _page(self) -> Any:
        pages = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        return pages[0]["targetId"] if pages else None

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **params: Any) -> Any:
        """One command; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for told in self._messages(1):
                if told.get("method") == "Network.requestWillBeSent":
                    self.requests.append(told["params"]["request"]["url"])
                if told.get("id") == self._number:
                    if "error" in told:
                        raise RuntimeError(f"{method}: {told['error']}")
                    return told["result"]
        raise TimeoutError(method)

    def _messages(self, seconds: float) -> list[dict[str, Any]]:
        ready, _, _ = select.select([self._in], [], [], seconds)
        if ready:
            self._rest += os.read(self._in, 1 << 20)
        *whole, self._rest = self._rest.split(b"\0")
        return [json.loads(w) for w in whole]

    def _wait(self, look: Callable[[], Any], seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            time.sleep(0.2)
        raise TimeoutError("the page does not show what was waited for")

    def open(self, url: str) -> None:
        """Go to a page."""
        self.send("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        told = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(str(told["exceptionDetails"])[:500])
        return told["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression once it is true."""
        return self._wait(lambda: self.js(expression), seconds)

    def quiet(self, still: float = 2, seconds: float = 60) -> None:
        """Until the page has asked for nothing for a while."""
        seen: list[tuple[float, int]] = []

        def no_more() -> bool:
            self.js("0")  # reads what has come meanwhile
            seen.append((time.monotonic(), len(self.requests)))
            return [n for t, n in seen if t <= seen[-1][0] - still][-1:] == [seen[-1][1]]

        self._wait(no_more, seconds)

    def click(self, x: float, y: float) -> None:
        """With the mouse."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def click_on(self, find: str, seconds: float = 60) -> None:
        """On the middle of an element, by an expression that finds it, once it is seen there and stays where it is."""
        place = (
            f"(() => {{const e = {find}; if (!e) return null; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(), at = [r.x + r.width / 2, r.y + r.height / 2];"
            " const top = document.elementFromPoint(...at);"
            " return top && (e.contains(top) || top.contains(e)) ? at : null})()"
        )
        before: list[Any] = []

        def still() -> Any:
            before.append(self.js(place))
            return before[-1] if len(before) > 2 and before[-1] == before[-2] == before[-3] else None

        self.click(*self._wait(still, seconds))

    def type(self, said: str) -> None:
        """Text, at the cursor."""
        self.send("Input.insertText", text=said)

    def keys(self, key: str, *, control: bool = False) -> None:
        """Press a key."""
        code = {"a": 65, "Tab": 9, "Enter": 13, "Escape": 27}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=2 if control else 0,
                commands=["selectAll"] if control and key == "a" else [],
            )

    def picture(self, path: Path) -> None:
        """What is seen now, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
