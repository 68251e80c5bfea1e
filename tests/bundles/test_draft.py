"""What a card tells of settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from detect import assets
from detect.bundles.draft import settings_told
from detect.config import Settings

BUNDLE = assets.RELEASED_BUNDLES / "cells-yolov8n"


class _Settings(Settings):
    pretrained: bool | str = False
    members: tuple[str, ...] = ()
    augment: tuple[dict[str, str | float], ...] = ()


def test_a_card_holds_no_path_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    card = hashlib.sha256((BUNDLE / "bundle.yaml").read_bytes()).hexdigest()
    gone = str(tmp_path / "gone" / "w.safetensors")
    given = _Settings(
        pretrained=str(tmp_path / "weights.safetensors"),
        members=("wbc-types", str(BUNDLE), gone, "./nowhere"),
        augment=({"name": "HedJitter", "p": 0.5},),
    )
    told = settings_told(given)
    assert told["pretrained"] == f"weights.safetensors, sha256 {digest}"
    assert told["members"] == ["wbc-types", f"cells-yolov8n, sha256 {card}", "w.safetensors", "./nowhere"]
    assert told["augment"] == [{"name": "HedJitter", "p": 0.5}]
    monkeypatch.chdir(tmp_path)
    assert settings_told(_Settings(pretrained="./weights.safetensors"))["pretrained"] == told["pretrained"]
    assert settings_told(_Settings(pretrained="weights.safetensors"))["pretrained"] == "weights.safetensors"
    assert settings_told(_Settings())["pretrained"] is False
