"""The API against its own document: whatever that allows, and much that it does not, never breaks the page."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable

from tests.web.conftest import Page

schemathesis = pytest.importorskip("schemathesis")

OPERATIONS = 17


def answers(operation: Any, upload: str) -> set[int]:
    """The statuses that an operation answers with, asked what its document allows and what it does not."""
    found: set[int] = set()
    for mode in schemathesis.GenerationMode:

        @seed(1)
        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if "upload" in (case.path_parameters or {}) and case.method != "DELETE":
                case.path_parameters["upload"] = upload  # most can only be asked of one that is there
            found.add(case.call().status_code)

        with suppress(Unsatisfiable):  # nothing can be wrong with what takes nothing
            ask()
    return found


def test_nothing_that_is_asked_breaks_the_page(page: Page, upload: str) -> None:
    api = schemathesis.openapi.from_url(f"{page.url}/api/openapi.json")
    asked = {found.ok().label: answers(found.ok(), upload) for found in api.get_all_operations()}
    assert len(asked) == OPERATIONS, sorted(asked)
    assert not {label: codes for label, codes in asked.items() if max(codes) >= 500}
    worked = {label for label, codes in asked.items() if 200 in codes}
    assert len(worked) >= 11, asked  # what is read; a picture to send, or a word that means something, is not made up
