"""`info` on emotion spaces: what is shown, what is drawn, what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridcascade.cli import main


def told(capsys: pytest.CaptureFixture[str], *line: str) -> dict[str, dict[str, str]]:
    assert main(["info", *line, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_info_describes_a_space(capsys: pytest.CaptureFixture[str]):
    shown = told(capsys, "mikels8")
    assert shown["classes"]["awe"] == "pleasant"
    assert shown["space"]["ring"].startswith("amusement, contentment, awe, excitement, fear")
    row = shown["amusement by prior (--prior), in %"]
    assert row["wheel"] == "37.4, 6.0, 23.1, 1.5, 23.1, 6.0, 1.1, 1.5"
    assert set(row) == {"none", "wheel", "wheel_polarity", "exclusion", "smoothing"}
    assert set(told(capsys, "spaces")["spaces"]) == {"mikels8", "ekman6", "ekman6_neutral", "ferplus8"}
    assert "wheel_polarity" in told(capsys, "priors")["priors"]


def test_a_space_without_a_ring_shows_the_candidates_and_takes_one(capsys: pytest.CaptureFixture[str]):
    bare = told(capsys, "ekman6")
    assert set(bare["anger by prior (--prior), in %"]) == {"none", "smoothing"}
    assert set(bare["rings (--ring)"]) == {"mikels_induced", "mikels_alias"}
    chosen = told(capsys, "ekman6", "--ring", "mikels_induced")
    assert chosen["anger by prior (--prior), in %"]["wheel"] == "37.9, 23.6, 1.9, 23.6, 6.5, 6.5"


def test_plot_of_the_priors_of_a_space_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own = tmp_path / "moods.yaml"
    own.write_text("classes: [calm, joy, gloom]\nring: [calm, joy, gloom]\n")
    drawn = tmp_path / "plots" / "priors.svg"
    assert main(["info", str(own), "--plot", str(drawn)]) == 0
    said = capsys.readouterr()
    assert "no polarity" in said.out
    assert drawn.as_posix() in said.err
    assert "gloom" in drawn.read_text()
    assert "wheel_polarity" not in drawn.read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["methods", "--plot", "x.svg"], "emotion space"),
        (["lafter", "--ring", "a,b"], "--ring is about an emotion space"),
        (["mikels8", "--plot", "x.png"], r".svg file"),
        (["ekman6", "--ring", "mikels"], "Did you mean 'mikels_alias'"),
        (["nosuch.yaml"], "nosuch.yaml"),
        (["mikel8"], "Did you mean 'mikels8'"),
    ],
)
def test_what_cannot_be_shown_is_told(line: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["info", *line]) == 2
    assert message in capsys.readouterr().err
