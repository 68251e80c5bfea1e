"""Prove the core install: no training framework, and a field is scored all the same. Run by `make minimal`."""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HEAVY = ("torch", "torchvision", "ultralytics", "timm", "fiftyone", "ray", "sklearn", "matplotlib")
SMEAR = str(Path(sys.executable).parent / "smear")


def main() -> None:
    """Exit with a message where the core is not what it says."""
    present = [name for name in HEAVY if find_spec(name) is not None]
    if present:
        sys.exit(f"the core environment holds {present}: install without extras")
    with tempfile.TemporaryDirectory() as folder:
        slides, out = Path(folder) / "slides", Path(folder) / "out"
        size = ["--slides", "3", "--fields", "1", "--size", "640", "--px-per-um", "11"]
        subprocess.run([SMEAR, "data", "synthesize", "--out", slides, *size], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([SMEAR, "score", slides / "images", "--out", out], check=True, stdout=subprocess.DEVNULL)
        import pyarrow.parquet as pq

        cells = pq.read_table(out / "cells" / "part-00000.parquet")
        fields = pq.read_table(out / "fields" / "part-00000.parquet")
        if fields.column("status").to_pylist() != ["ok"] * 3 or not cells.num_rows:
            sys.exit(f"the core did not score 3 fields: {fields.to_pylist()}")
        if not (out / "report" / "index.html").is_file():
            sys.exit("no report was written")
        told = subprocess.run([SMEAR, "review", "list"], capture_output=True, text=True, check=False)
        if told.returncode != 2 or "smear-detect[review]" not in told.stderr:
            sys.exit(f"'smear review' does not name its extra: {told.stderr}")
        print(f"minimal install: 3 fields scored with no torch, {cells.num_rows} cells")


if __name__ == "__main__":
    main()
