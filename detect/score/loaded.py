"""What workers need, imported where they are forked from: their work, and the engine that `auto` takes."""

from __future__ import annotations

from importlib import import_module

import detect.score.work  # noqa: F401
from detect.runtime.base import ENGINES, installed

for _name in installed()[:1]:
    import_module(ENGINES[_name])
