"""What `data inspect` counts, against data whose counts are known because they were made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybridcascade.cli.entry import main
from hybridcascade.data.lookalikes import find_lookalikes, mark_picture
from hybridcascade.data.survey import survey
from hybridcascade.data.survey_page import survey_page


def noise(seed: int, size: int = 48) -> Image.Image:
    """A smooth random picture, so that JPEG and scaling keep it."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def made(root: Path) -> Path:
    """Eight voted pictures; 5 is 1 once more, smaller and in another split; 7 cannot be read."""
    header = "path,label,split,keyword,votes_awe,votes_fear"
    rows = ["0.jpg,awe,train,awe,3,1", "1.jpg,awe,train,fear,3,1", "2.jpg,,train,fear,2,2", "3.jpg,fear,train,fear,0,4"]
    rows += ["4.jpg,awe,test,awe,1,3", "5.jpg,awe,test,awe,4,0", "6.jpg,,test,awe,5,0", "7.jpg,fear,test,fear,0,4"]
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    for i in range(7):
        noise(1 if i == 5 else i, 40 if i == 5 else 48).save(root / f"{i}.jpg", quality=60 if i == 5 else 90)
    (root / "7.jpg").write_bytes(b"no picture")
    return root


def test_a_survey_counts_what_was_made(tmp_path: Path) -> None:
    found = survey(made(tmp_path))
    assert found.format == "manifest manifest.csv"
    assert (found.pictures, found.splits) == (8, {"train": 4, "test": 4})
    assert found.balance == {"awe": {"train": 3, "test": 3}, "fear": {"train": 1, "test": 1}}
    assert (found.ties, found.against_votes) == (("2.jpg",), ("4.jpg",))
    assert found.keywords == {"awe": {"awe": 4}, "fear": {"awe": 2, "fear": 2}}
    assert found.keyword_agreement == (6, 8)
    assert found.votes == {"pictures": 8, "smallest_sum": 4, "largest_sum": 5, "share_of_zeros": 4 / 16}
    assert found.vote_mass["awe"] == pytest.approx((0.75 + 0.75 + 0.5 + 0 + 0.25 + 1 + 1 + 0) / 8)
    assert [name for name, _ in found.unreadable] == ["7.jpg"]
    assert [(p.first, p.second) for p in found.pairs] == [("1.jpg", "5.jpg")]
    assert [p.splits for p in found.leaks] == [("train", "test")]


def test_the_page_holds_all_it_shows(tmp_path: Path) -> None:
    root = tmp_path / "a<b"
    root.mkdir()
    page = survey_page(survey(made(root)))
    assert "a&lt;b" in page
    assert "a<b" not in page
    assert page.count("data:image/jpeg;base64,") == 2 + 7  # the pair, and the contact sheet
    assert "http" not in page
    assert ">1.jpg</figcaption>" in page


def test_pictures_of_several_folders_are_shown_with_their_folder(tmp_path: Path) -> None:
    for folder in ("awe", "fear"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        noise(len(folder)).save(tmp_path / "images" / folder / "1.jpg")
    page = survey_page(survey(tmp_path))
    assert page.count(">awe/1.jpg</figcaption>") == page.count(">fear/1.jpg</figcaption>") == 1


def test_lookalikes_equal_the_plain_comparison_of_all_pairs() -> None:
    """Every pair of 600 random hashes, so that several chunks meet; plain colours never count as alike."""
    marks = [mark_picture(noise(seed // 2 if seed < 40 else seed, 32)) for seed in range(600)]
    marks[7] = None  # type: ignore[call-overload]
    got = {(a, b) for a, b, _ in find_lookalikes(marks)}
    wanted = set()
    for a in range(600):
        for b in range(a + 1, 600):
            one, two = marks[a], marks[b]
            if one is None or two is None:
                continue
            apart = sum(int(x ^ y).bit_count() for x, y in zip(one.bits.tolist(), two.bits.tolist(), strict=True))
            near = np.abs(one.thumb.astype(int) - two.thumb.astype(int)).mean() <= 10
            if apart <= 8 and near:
                wanted.add((a, b))
    assert got == wanted
    assert {(a, a + 1) for a in range(0, 40, 2) if a != 6} <= got
    plain = [mark_picture(Image.new("RGB", (32, 32), colour)) for colour in ("red", "blue", "green")]
    assert find_lookalikes(list(plain)) == []


def test_the_command_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made(tmp_path)
    assert main(["data", "inspect", str(root), "--html", str(tmp_path / "page.html")]) == 0
    shown = capsys.readouterr().out
    assert "the same on 6 of 8 pictures (75.0%)" in shown
    assert "alike across splits: 1\n  1.jpg (train) and 5.jpg (test)" in shown
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert main(["data", "inspect", str(root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs_across_splits"], told["ties"]) == (1, ["2.jpg"])
    assert main(["data", "inspect", str(root), "--html", str(tmp_path / "page.html")]) == 1
    assert main(["data", "look", str(root)]) == 2


def test_a_manifest_is_written_and_read_back(tmp_path: Path) -> None:
    from hybridcascade.data.sources import open_source

    header = "images-name Amusement Awe Contentment Excitement Anger Disgust Fear Sadness"
    (tmp_path / "ground_truth.txt").write_text(f"{header}\n1.jpg 0 6 3 0 0 0 1 1\n2.jpg 0 0 0 0 5 5 1 0\n")
    (tmp_path / "images").mkdir()
    for i in (1, 2):
        noise(i).save(tmp_path / "images" / f"{i}.jpg")
    before = open_source(tmp_path, make_split="hash:0.5")
    out = tmp_path / "manifest.csv"
    assert main(["data", "manifest", str(tmp_path), "--make_split", "hash:0.5", "--out", str(out), "--quiet"]) == 0
    after = open_source(tmp_path)
    assert after.classes == before.classes
    assert after.samples == before.samples
