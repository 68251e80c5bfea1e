"""Tests, laid out as `detect/` is; `tests/data.py` makes their inputs."""
