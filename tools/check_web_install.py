"""Prove the page with the core and its extra alone: no training framework, and an upload is scored all the same. Run by
`make minimal`."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

SMEAR = str(Path(sys.executable).parent / "smear")


def sent(url: str, paths: list[Path]) -> str:
    """Upload pictures; the id of the upload."""
    line, body = "x7k2", b""
    for path in paths:
        head = f'--{line}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        body += head.encode() + path.read_bytes() + b"\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary={line}"}
    asked = urllib.request.Request(f"{url}/api/uploads", body + f"--{line}--\r\n".encode(), kind)
    with urllib.request.urlopen(asked) as answer:
        return str(json.load(answer)["id"])


def main() -> None:
    """Exit with a message where the page is not what it says."""
    if find_spec("torch") is not None:
        sys.exit("torch is installed here: this says nothing")
    with tempfile.TemporaryDirectory() as folder:
        drawn = ["--slides", "1", "--fields", "2", "--size", "640", "--px-per-um", "11"]
        subprocess.run(
            [SMEAR, "data", "synthesize", "--out", f"{folder}/drawn", *drawn], check=True, stdout=subprocess.DEVNULL
        )
        command = [SMEAR, "web", "--port", "0", "--data", f"{folder}/data", "--workers", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = next(w for w in process.stdout.readline().split() if w.startswith("http")).rstrip("/")
            upload = sent(url, sorted(p for p in Path(folder, "drawn", "images").rglob("*") if p.is_file()))
            for _ in range(600):
                with urllib.request.urlopen(f"{url}/api/uploads/{upload}") as answer:
                    state = json.load(answer)["state"]
                if state in ("done", "failed"):
                    break
                time.sleep(0.1)
            if state != "done":
                sys.exit(f"the upload is {state}")
            with urllib.request.urlopen(f"{url}/api/uploads/{upload}/cells") as answer:
                cells = json.load(answer)
            white = next(c for c in cells if c["probabilities"])
            place = f"{url}/api/uploads/{upload}/fields/{white['field']}/cells/{white['cell']}/map.jpg"
            with urllib.request.urlopen(f"{url}/uploads/{upload}") as answer, urllib.request.urlopen(place) as picture:
                if b"Assessment" not in answer.read() or picture.read(2) != b"\xff\xd8":
                    sys.exit("its pages are not whole")
        finally:
            process.terminate()
            process.wait(60)
        print(f"the page: 2 fields scored with no torch, {len(cells)} cells")


if __name__ == "__main__":
    main()
