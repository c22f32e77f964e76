"""Manifests: every format reads, every wrong row is named by file, row and column."""

import json
import os
import zipfile

import pandas as pd
import pytest
from PIL import Image

from hybridcascade.data.sources import open_source
from hybridcascade.data.trees import relative_name
from hybridcascade.errors import DataError, ManifestError

CLASSES = ("awe", "fear")


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (ord(name[-5]), 0, 0)).save(tmp_path / name)
    return tmp_path


def manifest(folder, text, name="m.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding, newline="")
    return folder / name


def test_columns_are_read(folder):
    text = "label,path,split,note,awe,fear\nfear,sub/c.png,test,x,1,3\nawe,a.png,train,y,2.5,0\n,b.png,,z,,\n"
    source = open_source(manifest(folder, text), CLASSES)
    assert source.classes == CLASSES
    assert [(s.id, s.label, s.votes, s.split) for s in source.samples] == [
        ("sub/c.png", 1, (1.0, 3.0), "test"),
        ("a.png", 0, (2.5, 0.0), "train"),
        ("b.png", None, None, None),
    ]
    assert source.open(0).getpixel((0, 0))[0] == ord("c")
    tested = open_source(folder / "m.csv", CLASSES, split="test")
    assert tested.targets(("fear", "awe")).tolist() == [[0.75, 0.25]]
    assert tested.labels(CLASSES).tolist() == [1]


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("m.csv", "path,label\r\na.png,fear\r\nsub\\c.png,awe\r\n", "utf-8"),
        ("m.csv", "path,label\na.png,fear\nsub/c.png,awe\n", "utf-8-sig"),
        ("m.csv", " path ; label\na.png;fear\n./sub/c.png; awe \n", "utf-8-sig"),
        ("m.csv", "path\tlabel\na.png\tfear\nsub/c.png\tawe\n", "utf-8"),
        ("m.tsv", "path\tlabel,x\tlabel\na.png\t1,2\tfear\nsub/c.png\t\tawe\n", "utf-8"),
        ("m.csv", '\npath,label,\n"a.png",fear,\n\n,,\n"sub/x/../c.png",awe,\n', "utf-8"),
        ("m.jsonl", '{"path": "a.png", "label": "fear"}\n\n{"path": "sub/c.png", "label": "awe", "x": [1]}', "utf-8"),
    ],
)
def test_formats_and_dialects(folder, name, text, encoding):
    source = open_source(manifest(folder, text, name, encoding), CLASSES)
    assert [(s.id, s.label) for s in source.samples] == [("a.png", 1), ("sub/c.png", 0)]


def test_parquet(folder):
    frame = pd.DataFrame({"path": ["a.png", "sub/c.png"], "votes_fear": [1, 2], "votes_awe": [3.0, None]})
    frame["bytes"] = [b"\0", b"\1"]
    frame.loc[1, ["votes_fear", "votes_awe"]] = None
    frame["label"] = [None, "fear"]
    frame.to_parquet(folder / "m.parquet")
    source = open_source(folder / "m.parquet")
    assert source.classes == ("fear", "awe")
    assert [(s.id, s.label, s.votes) for s in source.samples] == [("a.png", None, (1, 3)), ("sub/c.png", 0, None)]


def test_decimal_commas_of_semicolon_files(folder):
    source = open_source(manifest(folder, "path;prob_awe;prob_fear\na.png;0,25;0,75\n"))
    assert source.samples[0].votes == (0.25, 0.75)


def test_classes_come_from_columns_in_order_or_from_labels_sorted(folder):
    columns = open_source(manifest(folder, "path,prob_fear,prob_awe,label\na.png,1,3,awe\n"))
    assert columns.classes == ("fear", "awe")
    assert columns.targets(CLASSES).tolist() == [[0.75, 0.25]]
    assert columns.labels(CLASSES).tolist() == [0]
    labels = open_source(manifest(folder, "path,label\na.png,fear\nb.png,awe\n"))
    assert labels.classes == ("awe", "fear")
    assert open_source(manifest(folder, "path,awe\na.png,3\n")).classes is None


def test_votes_stand_before_probabilities_and_bare_names(folder):
    text = "path,awe,fear,prob_awe,prob_fear,votes_awe,votes_fear\na.png,1,0,0.5,0.5,1,3\n"
    assert open_source(manifest(folder, text), CLASSES).samples[0].votes == (1.0, 3.0)


def test_label_of_votes_is_the_first_of_the_largest(folder):
    source = open_source(manifest(folder, "path,prob_a,prob_b,prob_c\na.png,1,3,3\nb.png,0,0,1\n"))
    assert source.labels(("a", "b", "c")).tolist() == [1, 2]
    assert source.labels(("c", "b", "a")).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,awe\n", r"m\.csv, row 1: expected a column 'path', found columns file, label\."),
        ("Path,label\na.png,awe\n", r"row 1: expected a column 'path', .* Did you mean 'Path'\?"),
        ("", r"m\.csv, row 1: expected a column 'path', found no column"),
        ("path,label\n", r"m\.csv: expected a row for each picture, found the header only"),
        (
            "path\na.png\nb.png\n\n./a.png\n",
            r"m\.csv, row 5, column 'path': expected each picture once, found 'a\.png', already in row 2\. Remove",
        ),
        (
            "path,label\na.png,awe\nb.png,faer\n",
            r"m\.csv, row 3, column 'label': expected one of the classes awe, fear, found 'faer'\. Did you mean 'fear'",
        ),
        (
            "path\na.png\nsub/none.png\nx.png\n",
            r"m\.csv, row 3, column 'path': expected a file in .*, found no 'sub/none\.png' \(and 1 more",
        ),
        ("path\n../a.png\n", r"row 2, column 'path': expected a path below the folder of the manifest, found '\.\./a"),
        ("path\nsub/../../a.png\n", r"row 2, column 'path': expected a path below"),
        ("path\n..\\a.png\n", r"row 2, column 'path': expected a path below"),
        ("path\n/etc/passwd.png\n", r"row 2, column 'path': expected a path below .* found '/etc/passwd\.png'"),
        ("path\nC:\\a.png\n", r"row 2, column 'path': expected a path below"),
        ("path\n\\\\server\\a.png\n", r"row 2, column 'path': expected a path below"),
        ("path,label\n,awe\n", r"row 2, column 'path': expected a file name, found an empty cell"),
        ("path\nsub\n", r"row 2, column 'path': expected a file in"),
        ("path,awe,fear\na.png,1,-2\n", r"row 2, column 'fear': expected a number >= 0, found '-2'\. Correct the cell"),
        ("path,awe,fear\na.png,nan,1\n", r"row 2, column 'awe': expected a number >= 0, found 'nan'"),
        ("path,awe,fear\na.png,inf,1\n", r"row 2, column 'awe': expected a number >= 0, found 'inf'"),
        ("path,awe,fear\na.png,many,1\n", r"row 2, column 'awe': expected a number >= 0, found 'many'"),
        ("path,awe,fear\na.png,,1\n", r"row 2, column 'awe': expected a number >= 0, found an empty cell beside"),
        (
            "path,votes_awe,votes_fear\na.png,1,1\nb.png,0,0.0\n",
            r"row 3, columns 'votes_awe', 'votes_fear': expected at least one vote above 0, found zeros only",
        ),
        ("path,prob_awe\na.png,1\n", r"row 1: expected a column 'prob_fear' for class 'fear', found none\."),
        ("path,fear\na.png,1\n", r"row 1: expected a column 'awe' for class 'awe', found none"),
        (
            "path,prob_awe,prob_fear,prob_joy\na.png,1,1,1\n",
            r"row 1, column 'prob_joy': expected class columns for awe, fear only, found a column for 'joy'",
        ),
        ("path,label,label\na.png,awe,fear\n", r"row 1: expected each column once, found 'label' twice"),
        ("path,label\na.png,awe,x\n", r"row 2: expected 2 cells as in the header, found 3"),
        ('path,label\n"a.png,awe\n', r"m\.csv, line \d: expected a CSV row, found unexpected end of data"),
        ("path,zip\na.png,none.zip\n", r"row 2, column 'zip': expected an archive in .*, found no 'none\.zip'"),
        ("path,zip\na.png,../x.zip\n", r"row 2, column 'zip': expected a path below"),
    ],
)
def test_wrong_manifests_are_named_by_row_and_column(folder, text, message):
    with pytest.raises(ManifestError, match=message) as caught:
        open_source(manifest(folder, text), CLASSES)
    assert "m.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"path": "a.png"}\n{"path": \n',
            r"m\.jsonl, line 2: expected one JSON object, found Expecting value at char",
        ),
        ('["a.png"]\n', r"m\.jsonl, line 1: expected one JSON object, found \['a\.png'\]"),
        (
            '{"path": "a.png", "label": 3}\n',
            r"line 1, column 'label': expected one of the classes awe, fear, found '3'",
        ),
        ('{"path": "a.png", "awe": NaN, "fear": 1}', r"line 1, column 'awe': expected a number >= 0, found nan"),
        ('{"path": "a.png", "awe": [1], "fear": 1}', r"line 1, column 'awe': expected a number >= 0, found \[1\]"),
        ('{"path": "a.png"}\n{"label": "awe"}', r"line 2, column 'path': expected a file name, found an empty cell"),
    ],
)
def test_wrong_json_lines(folder, text, message):
    with pytest.raises(ManifestError, match=message):
        open_source(manifest(folder, text, "m.jsonl"), CLASSES)


def test_wrong_parquet(folder):
    (folder / "m.parquet").write_bytes(b"PAR1 nothing more")
    with pytest.raises(ManifestError, match=r"m\.parquet: expected a Parquet file, found"):
        open_source(folder / "m.parquet")
    pd.DataFrame({"path": ["a.png", "b.png"], "awe": [1.0, -1.0], "fear": [0, 1]}).to_parquet(folder / "n.parquet")
    with pytest.raises(ManifestError, match=r"n\.parquet, row 3, column 'awe': expected a number >= 0, found -1\.0"):
        open_source(folder / "n.parquet", CLASSES)


def test_not_utf8(folder):
    (folder / "m.csv").write_bytes("path\ncaf\xe9.png\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"m\.csv: expected UTF-8 text, .*Save it as UTF-8"):
        open_source(folder / "m.csv")


def test_unknown_split_and_pictures_of_other_splits(folder):
    text = "path,split\na.png,train\nnot_here.png,test\n"
    assert open_source(manifest(folder, text), split="train").ids == ("a.png",)
    with pytest.raises(DataError, match="expected pictures of split 'val', found the splits test, train"):
        open_source(folder / "m.csv", split="val")


def test_paths_outside_can_be_allowed(folder):
    inner = folder / "sub"
    path = manifest(inner, f"path\n../a.png\n{(folder / 'b.png').as_posix()}\nc.png\n")
    with pytest.raises(ManifestError, match="or allow paths outside"):
        open_source(path)
    source = open_source(path, allow_outside=True)
    assert source.ids == ("../a.png", (folder / "b.png").as_posix(), "c.png")
    assert [source.open(row).getpixel((0, 0))[0] for row in range(3)] == [ord("a"), ord("b"), ord("c")]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_that_lead_out_are_refused(folder, kind):
    root = folder / "root"
    root.mkdir()
    try:
        if kind == "file":
            (root / "x").mkdir()
            (root / "x" / "a.png").symlink_to(folder / "a.png")
        else:
            (root / "x").symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let us make links")
    path = manifest(root, "path\nx/a.png\n")
    with pytest.raises(ManifestError, match=r"row 2, column 'path': .*found 'x/a\.png', a link that leads out of it"):
        open_source(path)
    assert len(open_source(path, allow_outside=True)) == 1
    (root / "here.png").write_bytes((folder / "a.png").read_bytes())
    (root / "link.png").symlink_to(root / "here.png")
    assert len(open_source(manifest(root, "path\nlink.png\n"))) == 1


def test_pictures_in_archives_beside_the_manifest(folder):
    for name in ("x.zip", "y.zip"):
        with zipfile.ZipFile(folder / name, "w") as file:
            file.write(folder / "a.png", "in/1.png")
            file.write(folder / "b.png", "in/2.png")
    one = open_source(manifest(folder, "zip,path\nx.zip,in/2.png\nx.zip,in\\1.png\n"))
    assert one.ids == ("in/2.png", "in/1.png")
    assert one.open(0).getpixel((0, 0))[0] == ord("b")
    several = open_source(manifest(folder, "zip,path\nx.zip,in/1.png\ny.zip,in/1.png\n,a.png\n"))
    assert several.ids == ("x.zip/in/1.png", "y.zip/in/1.png", "a.png")
    with pytest.raises(ManifestError, match=r"row 2, column 'path': expected a file in .*x\.zip, found no 'in/3\.png'"):
        open_source(manifest(folder, "zip,path\nx.zip,in/3.png\n"))
    with pytest.raises(ManifestError, match="row 2, column 'path': expected a path below"):
        open_source(manifest(folder, "zip,path\nx.zip,../3.png\n"), allow_outside=True)


def test_an_archive_in_an_archive_is_refused(folder):
    with zipfile.ZipFile(folder / "x.zip", "w") as file:
        file.writestr("manifest.csv", "zip,path\ny.zip,1.png\n")
    with pytest.raises(ManifestError, match=r"x\.zip/manifest\.csv, row 2, column 'zip': expected no archive inside"):
        open_source(folder / "x.zip")


def test_a_folder_with_a_manifest_is_read_through_it(folder):
    manifest(folder, "path,label\nsub/c.png,fear\n", "manifest.csv")
    assert [(s.id, s.label) for s in open_source(folder, CLASSES).samples] == [("sub/c.png", 1)]


def test_ids_that_differ_in_case_are_two(folder):
    if os.path.exists(folder / "A.png"):
        pytest.skip("this file system does not tell A from a")
    Image.new("RGB", (8, 6)).save(folder / "A.png")
    assert open_source(manifest(folder, "path\nA.png\na.png\n")).ids == ("A.png", "a.png")


def test_long_cells_are_cut_in_messages(folder):
    with pytest.raises(ManifestError) as caught:
        open_source(manifest(folder, f"path,label\na.png,{'x' * 5000}\n"), CLASSES)
    assert len(str(caught.value)) < 400


def test_a_large_manifest_is_checked_in_a_moment(folder):
    rows = [json.dumps({"path": "a.png" if i == 0 else f"sub/{i}.png", "split": str(i > 0)}) for i in range(20_000)]
    source = open_source(manifest(folder, "\n".join(rows), "m.jsonl"), split="False")
    assert source.ids == ("a.png",)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a/b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        ("./a//b.png", "a/b.png"),
        ("a/../b.png", "b.png"),
        ("..", None),
        ("a/../../b", None),
        ("/a", None),
        ("C:/a", None),
        ("\\\\s\\a", None),
        ("", None),
        ("a\0b", None),
        ("...", "..."),
        ("a..b.png", "a..b.png"),
    ],
)
def test_relative_names(written, name):
    assert relative_name(written) == name
