"""Fixtures that more than one room uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# A loaded machine must not fail a property for being slow.
settings.register_profile("smear", deadline=None, max_examples=60)
settings.load_profile("smear")


# Rooms whose tests take long, longest first.
_LONG = ("tables", "score", "web", "classify", "detectors", "review", "bundles", "cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that at the end no process is left alone with it."""
    ranks = {ROOT / "tests" / room: rank for rank, room in enumerate(_LONG)}
    items.sort(key=lambda item: min((ranks.get(p, len(ranks)) for p in item.path.parents), default=len(ranks)))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of torch that wait for one another are slow on a busy machine, and nothing in tests is large."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public sets, as published."""
    folder = (ROOT / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip("the public sets are not here (../shared/data)")
    return folder
