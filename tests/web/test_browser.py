"""The page in a headless Chromium: upload, look, filter, correct, export, print; on a desk and on a phone."""

from __future__ import annotations

import json
import socket
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser import CHROMIUM, Browser
from tests.web.conftest import Page, served

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")]

READY = "document.readyState === 'complete'"
IMPACTS = ("serious", "critical")


def go(browser: Browser, url: str) -> None:
    """Open a page and wait until it is there, its pictures too."""
    browser.open(url)
    browser.wait(f"location.href === {url!r} && {READY}")
    browser.js("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    browser.wait("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def faults(browser: Browser) -> list[dict[str, Any]]:
    """What axe finds that is serious. It is run by the tools of the browser, as the page allows no foreign script."""
    axe = pytest.importorskip("axe_core_python")
    assert axe is not None
    browser.js(files("axe_core_python").joinpath("axe.min.js").read_text("utf-8") + "; 0")
    told = json.loads(browser.js("axe.run().then(r => JSON.stringify([r.violations, r.passes.length]))"))
    assert told[1] > 10  # it has looked
    kept = [v for v in told[0] if v["impact"] in IMPACTS]
    return [{"id": v["id"], "help": v["help"], "nodes": [n["html"][:120] for n in v["nodes"][:3]]} for v in kept]


def choose(browser: Browser, paths: list[Path]) -> None:
    """Choose files in the form, as a person does with the system's dialogue."""
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.send("DOM.setFileInputFiles", files=[str(p) for p in paths], nodeId=node)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> list[Path]:
    """Three real fields, each with a white cell."""
    folder = shared_data / "txl-pbc"
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png") and "val" in p.as_posix())
    return found[:3]


def test_a_visit(page: Page, real: list[Path], tmp_path: Path) -> None:
    with Browser(1280, 1000) as browser:
        go(browser, f"{page.url}/")
        assert faults(browser) == []
        choose(browser, real)
        browser.wait("document.getElementById('chosen').textContent === '3 files chosen'")
        browser.click_on("document.querySelector('#upload button')")
        browser.wait("location.pathname.startsWith('/uploads/')")
        browser.wait("document.querySelector('#assessment') !== null", 120)
        upload = browser.js("location.pathname").rpartition("/")[2]
        go(browser, f"{page.url}/uploads/{upload}")
        assert faults(browser) == []
        cells = page.get(f"/uploads/{upload}/cells")
        white = next(c for c in cells if c["label"] == "WBC")
        shown = browser.js("document.querySelector('.facts').innerText")
        assert f"{sum(c['label'] == 'WBC' for c in cells)}\n" in shown

        go(browser, f"{page.url}/uploads/{upload}/fields/{white['field']}")
        assert faults(browser) == []
        here = [c for c in cells if c["field"] == white["field"]]
        count = "[...document.querySelectorAll('#viewer a:not(.off)')].length"
        assert browser.js(count) == len(here)
        red = sum(c["label"] == "RBC" for c in here)
        browser.click_on("document.querySelector('[name=layer][value=RBC]')")
        browser.wait(f"{count} === {len(here) - red}")
        assert f"{len(here) - red} cells shown" in browser.js("document.getElementById('count').textContent")
        browser.click_on("document.querySelector('[name=layer][value=RBC]')")
        before = browser.js("document.querySelector('#viewer svg').getAttribute('viewBox')")
        browser.click_on("document.querySelector('[data-zoom=in]')")
        browser.wait(f"document.querySelector('#viewer svg').getAttribute('viewBox') !== {before!r}")
        browser.js("document.getElementById('viewer').focus()")
        browser.keys("0")
        browser.wait(f"document.querySelector('#viewer svg').getAttribute('viewBox') === {before!r}")
        cell = f"document.querySelector('#viewer a[href$=\"/cells/{white['cell']}\"]')"
        browser.js(f"{cell}.focus()")
        assert f"Cell {white['cell']}" in browser.js("document.getElementById('pointed').textContent")
        browser.picture(tmp_path / "field.png")
        browser.click_on(f"{cell}.querySelector('rect')")
        browser.wait(f"location.pathname.endsWith('/cells/{white['cell']}')")

        place = browser.js("location.href")
        go(browser, place)
        assert faults(browser) == []
        other = "Basophil" if white["type"] != "Basophil" else "Monocyte"
        browser.js(f"document.getElementById('value').value = {other!r}")
        browser.click_on("document.getElementById('who')")
        browser.type("Eve")
        browser.click_on("document.querySelector('.row button')")
        browser.wait(f"document.querySelector('.person')?.textContent === {other!r}")
        go(browser, place)  # a reload keeps it
        assert browser.js("document.querySelector('.person').textContent") == other
        again = next(
            c
            for c in page.get(f"/uploads/{upload}/cells")
            if c["cell"] == white["cell"] and c["field"] == white["field"]
        )
        assert again["said"]["type"]["who"] == "Eve"
        assert again["type"] == white["type"]

        go(browser, f"{page.url}/uploads/{upload}")
        named = browser.js("[...document.querySelectorAll('#export ~ ul a')].map(a => a.getAttribute('href'))")
        for form in named:
            told = browser.js(f"fetch({form!r}).then(async r => [r.status, (await r.arrayBuffer()).byteLength])")
            assert told[0] == 200
            assert told[1] > 0, form
        go(browser, f"{page.url}/uploads/{upload}/print")
        assert faults(browser) == []
        pdf = browser.send("Page.printToPDF")["data"]
        assert len(pdf) > 20_000
        assert not [u for u in browser.requests if not u.startswith((page.url, "data:", "about:", "blob:"))]


def test_it_fits_a_phone_and_a_keyboard(page: Page, upload: str) -> None:
    with Browser(390, 844) as browser:
        browser.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        for scheme in ("light", "dark"):
            browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for place in (
                "/",
                f"/uploads/{upload}",
                f"/uploads/{upload}/fields/1",
                f"/uploads/{upload}/fields/1/cells/0",
            ):
                go(browser, page.url + place)
                assert browser.js("document.documentElement.scrollWidth") <= 390, place
                assert faults(browser) == [], (scheme, place)
        go(browser, f"{page.url}/uploads/{upload}/fields/1")
        seen = set()
        for _ in range(40):
            browser.keys("Tab")
            seen.add(browser.js("document.activeElement.className.baseVal ?? document.activeElement.id ?? ''"))
        assert {"viewer", "kind", "least"} <= seen  # everything is reached by keys
        assert any("white" in name for name in seen)


def test_forms_work_from_another_machine(tmp_path: Path) -> None:
    """Over plain HTTP a browser says less of where a form comes from than it does on this machine itself."""
    every = (a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET)
    address = next((a for a in every if not a.startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no address but its own")
    everywhere = ("--host", "0.0.0.0", "--workers", 1)
    with served(tmp_path / "data", *everywhere) as page, Browser(1000, 800, reach=address) as browser:
        url = page.url.replace("127.0.0.1", address)
        go(browser, f"{url}/login")
        browser.click_on("document.getElementById('token')")
        browser.type(page.token)
        browser.click_on("document.querySelector('button')")
        browser.wait("location.pathname === '/' && document.getElementById('upload') !== null")
        browser.click_on("[...document.querySelectorAll('button')].find(b => b.textContent.includes('drawn'))")
        assert browser.wait("location.pathname.startsWith('/uploads/') && location.pathname").count("/") == 2


def test_dropped_files_and_refusals_are_told(page: Page, fields: dict[str, bytes]) -> None:
    with Browser(1280, 900) as browser:
        go(browser, f"{page.url}/")
        browser.js(
            "(() => { const t = new DataTransfer(); t.items.add(new File(['no picture'], 'notes.jpg'));"
            " const dropped = new DragEvent('drop', {dataTransfer: t, bubbles: true});"
            " document.querySelector('.drop').dispatchEvent(dropped); })()"
        )
        browser.wait("document.getElementById('chosen').textContent === '1 file chosen'")
        browser.click_on("document.querySelector('#upload button')")
        said = "document.getElementById('said').textContent"
        said = browser.wait(f"{said}.includes('not an image') && {said}")
        assert "notes.jpg" in said
        time.sleep(0.2)
        assert browser.js("location.pathname") == "/"
