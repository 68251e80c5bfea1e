"""What the page is told, and how much of anything it takes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field as Key

from detect.config import Settings
from detect.score.settings import ScoreSettings

MIB = 2**20


class WebSettings(Settings):
    """How the page is served.

    Attributes:
        data: private folder of uploads, runs and corrections.
        scorings: how uploads are scored, one for each pipeline; the first is the one whose cells are shown, the others
            stand beside it.
        workers: processes that score uploads; 0 takes one per processor core.
        queue: uploads that wait or are worked on at once; more are refused until one is done.
        keep_hours: after which an upload and everything made of it are deleted; corrections stay.
        file_mib, upload_mib: most of one file, and of one upload. unpacked_mib, zip_ratio: most that a zip comes to,
            and times that it may be larger than itself. fields: most pictures of one upload. mega_pixels: of one.
        patience: seconds that scoring one upload may take.
        token: what a visitor has to show; empty asks for nothing.
        hosts: names that the page answers to; a page that another name leads to is none of ours.
    """

    data: Path
    scorings: tuple[ScoreSettings, ...] = Key(min_length=1)
    workers: int = Key(0, ge=0)
    queue: int = Key(64, ge=1)
    keep_hours: float = Key(24.0, gt=0)
    file_mib: int = Key(64, ge=1)
    upload_mib: int = Key(1024, ge=1)
    unpacked_mib: int = Key(2048, ge=1)
    zip_ratio: float = Key(50.0, gt=1)
    fields: int = Key(500, ge=1)
    mega_pixels: float = Key(60.0, gt=0)
    patience: float = Key(1800.0, gt=0)
    token: str = ""
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")

    @property
    def uploads(self) -> Path:
        """One folder an upload."""
        return self.data / "uploads"

    @property
    def scratch(self) -> Path:
        """What is in the making, and goes with the page."""
        return self.data / "scratch"

    @property
    def database(self) -> Path:
        """What is kept of them."""
        return self.data / "smear-web.sqlite"
