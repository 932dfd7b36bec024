"""The examples in the README work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_tracker.app.config.loading import load_config

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_configuration_is_valid(tmp_path):
    (text,) = blocks("yaml")
    path = tmp_path / "cam.yaml"
    path.write_text(text)
    config = load_config(path)
    assert config.source.uri == str(tmp_path / "street.mp4")
    assert config.detector.classes == ["person"]


@pytest.mark.slow
def test_the_snippets_run(engines, demo_video, monkeypatch, capsys):
    monkeypatch.setenv("EDGE_TRACKER_ENGINES", str(engines))
    first, second = blocks("python")
    short = first.replace("data/vtest.avi", str(demo_video)).replace("while True:", "for _ in range(20):")
    assert short.count("for _ in range(20):") == 1
    exec(compile(short + second, "README.md", "exec"), {})
    assert re.search(r"^\d+ person \[[\d. ]+\]$", capsys.readouterr().out, re.M)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
