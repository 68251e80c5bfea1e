"""Files that travel with the package: dataset cards, the taxonomy, configurations, splits, released bundles.

In a wheel they lie in `detect/_assets`; in a checkout at the root of the repository.
"""

from __future__ import annotations

from pathlib import Path

from detect.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_assets"
ROOT = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
RELEASED_BUNDLES = _PACKAGE / "bundles" / "released"


def find(given: str | Path, folder: str, suffix: str) -> Path:
    """A user's file, or the packaged one of that name.

    Args:
        given: a path, a path as it stands in the repository, or a bare name such as "txl-pbc".
        folder: the asset folder that bare names are looked up in, such as "datasets".
        suffix: the ending of its files, such as ".yaml".

    Raises:
        ConfigError: neither exists; the packaged names are listed.
    """
    path = Path(given)
    if path.is_file():
        return path
    home = ROOT / folder
    for candidate in (ROOT / path, home / path.name, home / f"{path.name}{suffix}"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(p.stem for p in home.glob(f"*{suffix}"))) or "none"
    raise ConfigError(f"no file '{given}'", remedy=f"give a path, or one of the packaged {folder}: {names}")


def is_packaged(name: str, folder: str, suffix: str) -> bool:
    """Whether a packaged file of that bare name exists."""
    return (ROOT / folder / f"{name}{suffix}").is_file()


def bundle(given: str | Path) -> Path:
    """The folder of a user's bundle, or of the released bundle of that name."""
    path = Path(given)
    shipped = RELEASED_BUNDLES / path.name
    is_name = path.name == str(given) and shipped.is_dir()
    if path.is_dir() and ((path / "bundle.yaml").is_file() or not is_name):
        return path
    if is_name:
        return shipped
    names = ", ".join(released()) or "none"
    raise ConfigError(f"no bundle '{given}'", remedy=f"give a bundle folder, or one of the released: {names}")


def released() -> list[str]:
    """Names of the released bundles."""
    return sorted(p.parent.name for p in RELEASED_BUNDLES.glob("*/bundle.yaml"))
