"""The page as a file that is sent around: self-contained, escaped, valid, complete, and safely written."""

from __future__ import annotations

import errno
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridcascade.engine.records import EpochRecord, PhaseRecord
from hybridcascade.errors import DataError
from hybridcascade.evaluation.metrics import reliability
from hybridcascade.evaluation.page import picture_uri
from hybridcascade.evaluation.protocol import ResultRow
from hybridcascade.evaluation.report import Example, ReportData, TrainingCurve, training_curve, write_report

EVIL = "<script>alert('x')</script>&\"$a_b$"
CLASSES = ("awe", "fear", EVIL)
TRUTH = (0.2, 0.5, 0.3)
VOID = {"meta", "img", "wbr", "br", "path", "use", "rect", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_data(**changes: Any) -> ReportData:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 50)
    predictions = {"zero_shot": (0.6, 0.3, 0.1), "ours": (0.1, 0.7, 0.2), "linear_probe": (0.2, 0.5, 0.3)}
    values: dict[str, Any] = {
        "title": f"Report {EVIL}",
        "classes": CLASSES,
        "rows": [
            ResultRow("zero_shot", 0, {"accuracy": 0.416, "macro_f1": 0.4, "ece": 0.11, "kl": 0.62}, 0, 3.2),
            ResultRow("ours", 0, {"accuracy": 0.466, "macro_f1": 0.45, "ece": 0.05, "kl": 0.42}, 9216, 33.2),
            ResultRow(
                "linear_probe", 0, {"accuracy": 0.52, "macro_f1": 0.5, "ece": 0.05, "kl": 0.38}, uses_labels=True
            ),
        ],
        "ceiling": {"accuracy": 0.641, "kl": 0.0},
        "summary": EVIL,
        "command": f"hybridcascade demo --out {EVIL}",
        "model": EVIL,
        "data": EVIL,
        "versions": {"torch": EVIL},
        "examples": [
            Example(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), EVIL, TRUTH, predictions),
            Example(b"\xff\xd8\xff\xe0rest", "no truth.jpg", None, predictions),
        ],
        "learned": {
            "ours": {
                "nga_weights": [[0.1, 0.9], [1.0]],
                "stage_weights": [0.2, 0.8],
                "sigma": [1.0, 2.0],
                "temperature": 40.0,
                EVIL: 1.0,
            },
            "again": {"stage_weights": [0.2, 0.8]},
            "by kind": {
                "block_weights_cls_stage_1": [0.3, 0.7],
                "block_weights_cls_stage_2": [1.0],
                "block_weights_patch_mean_stage_1": [0.4, 0.6],
                "block_weights_patch_mean_stage_2": [1.0],
                "stage_weights": [0.1, 0.2, 0.7],
            },
        },
        "blocks": {"ours": ((7, 8), (9,))},
        "curves": {
            "ours": {"image": TrainingCurve([1, 2], [0.5, 0.4], [1e-3, 1e-4], "epoch"), EVIL: TrainingCurve([], [])}
        },
        "reliability": {EVIL: reliability(probabilities, probabilities)},
        "notes": (EVIL,),
    }
    return ReportData(**(values | changes))


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(tmp_path_factory.mktemp("report") / "deep" / "report.html", make_data())
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_nothing_is_loaded_from_outside(html: str, page: Page):
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html), "an address, or a style from elsewhere"
    assert not page.all("script")
    assert not page.all("link")
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_text_of_the_user_is_escaped(html: str, page: Page):
    assert "<script" not in html
    assert page.text.count("<script>alert('x')</script>") >= 8, "the text itself is shown, as text"


def test_ids_are_unique_and_every_reference_has_its_id(html: str, page: Page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)), "two equal plots share ids"
    wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html))
    assert wanted
    assert wanted <= set(ids)


def test_pictures_and_plots_have_words_for_those_who_cannot_see_them(page: Page):
    assert [bool(i.get("alt")) for i in page.all("img")] == [True, True]
    plots = page.all("svg")
    assert len(plots) == 1 + 1 + 2 + 2 + 1 + 3 + 1  # accuracy, reliability, examples, ours, again, by kind, one curve
    assert all(p.get("role") == "img" and p.get("aria-label") for p in plots)
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_figures_of_table_and_headline_are_there(page: Page):
    for figure in ("41.6", "46.6", "52.0", "64.1", "0.420", "9,216", "+5.0", "trained on labels", "ceiling"):
        assert figure in page.text


def test_table_marks_the_best_without_labels(html: str):
    rows = re.findall(r'<tr class="(\w*)"><th scope="row">([\w<>]+?)(?:<span| \(|</th>)', html)
    assert [(kind, name.replace("<wbr>", "")) for kind, name in rows] == [
        ("", "zero_shot"),
        ("best", "ours"),
        ("reference", "linear_probe"),
        ("ceiling", "ceiling"),
    ]


def test_examples_show_the_baseline_and_the_best_and_list_all(html: str):
    example = html[html.index('<li class="example">') :]
    example = example[: example.index("</details></li>")]
    assert '<li class="wrong">zero_shot: <b>awe</b>' in example
    assert '<li class="right">ours: <b>fear</b>' in example
    assert "linear_probe: <b>" not in example
    assert "linear_probe</th>" in example


def test_small_pictures_keep_their_pixels_and_bytes_stay_what_they_are(page: Page):
    small, jpeg = page.all("img")
    assert small.get("class") == "crisp"
    assert "class" not in jpeg
    assert (jpeg["src"] or "").startswith("data:image/jpeg;base64,/9j/")


def test_learned_quantities(page: Page):
    assert "40" in page.text
    assert "1, 2" in page.text
    labels = [p["aria-label"] or "" for p in page.all("svg")]
    assert any("stage 1: 0.10, 0.90; stage 2: 1.00" in label for label in labels)
    assert any("(patch mean). stage 1: 0.40, 0.60; stage 2: 1.00" in label for label in labels)
    assert any("(cls). stage 1: 0.30, 0.70; stage 2: 1.00" in label for label in labels)
    assert any("stage 2 0.200, CLIP's own 0.700" in label for label in labels)
    assert any("stage 1 0.200, stage 2 0.800" in label for label in labels)


def test_empty_parts_are_left_out(tmp_path: Path):
    data = make_data(examples=(), learned={}, curves={}, reliability={}, ceiling=None, notes=(), summary="", command="")
    page = Page(write_report(tmp_path / "r.html", data).read_text(encoding="utf-8"))
    headings = re.findall(r"<h2>([^<]+)", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert headings == ["Results", "How this was made"]
    assert "ceiling" not in page.text.lower()


def test_one_method_and_labels_only_still_make_a_page(tmp_path: Path):
    for row in (make_data().rows[0], make_data().rows[2]):
        Page(write_report(tmp_path / "r.html", make_data(rows=[row])).read_text(encoding="utf-8"))


def test_picture_without_any_prediction(tmp_path: Path):
    data = make_data(examples=[Example(np.zeros((8, 8, 3), np.uint8), "a", None, {})])
    Page(write_report(tmp_path / "r.html", data).read_text(encoding="utf-8"))


def test_several_seeds_show_intervals(tmp_path: Path):
    rows = [ResultRow("ours", s, {"accuracy": v}) for s, v in enumerate((0.40, 0.42, 0.44))]
    page = Page(write_report(tmp_path / "r.html", make_data(rows=rows, ceiling=None)).read_text(encoding="utf-8"))
    assert "42.0 ± 5.0" in page.text
    assert "mean of 3 seeds ± 95% interval" in page.text


def test_same_data_gives_the_same_bytes(tmp_path: Path, html: str):
    assert write_report(tmp_path / "r.html", make_data()).read_text(encoding="utf-8") == html


def test_full_disk_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, make_data(examples=(), learned={}, curves={}, reliability={}))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"not a picture", "'a' is not PNG, JPEG, GIF or WebP"),
        (np.zeros((4, 4), np.uint8), r"must be uint8 \[H, W, 3\], got uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), "got float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
    ],
)
def test_pictures_that_cannot_be_shown(picture: Any, message: str):
    with pytest.raises(DataError, match=message):
        picture_uri(picture, "a")


def test_pixels_survive_the_page():
    import base64
    import io

    import matplotlib.image

    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    uri, crisp = picture_uri(picture, "a")
    stored = matplotlib.image.imread(io.BytesIO(base64.b64decode(uri.split(",")[1])), format="png")
    np.testing.assert_array_equal(np.rint(stored[..., :3] * 255).astype(np.uint8), picture)
    assert crisp
    assert picture_uri(base64.b64decode(uri.split(",")[1]), "a")[1], "PNG bytes say their size too"
    assert not picture_uri(np.zeros((300, 300, 3), np.uint8), "a")[1]


def test_wrong_data_is_refused_early():
    with pytest.raises(DataError, match="at least one result row"):
        make_data(rows=[])
    with pytest.raises(DataError, match=r"example 'x': ours has 2 values for 3 classes"):
        make_data(examples=[Example(b"", "x", None, {"ours": (0.5, 0.5)})])
    with pytest.raises(DataError, match="true distribution has 1 values"):
        make_data(examples=[Example(b"", "x", (1.0,), {})])


def test_curve_of_an_engine_record():
    history = tuple(EpochRecord("image", e, e + 1, 2.0 - e, {}, {"head": 1e-3, "prompts": 1e-2}, 1.0) for e in range(2))
    curve = training_curve(PhaseRecord("image", 2, 2, "trained", 2.0, history))
    assert (curve.step, curve.loss, curve.lr, curve.unit) == ([1, 2], [2.0, 1.0], [1e-2, 1e-2], "epoch")
