"""Folders, folders per class, zips, single pictures; pictures that cannot be read."""

import io
import logging
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from hybridcascade.data.archives import ZipTree
from hybridcascade.data.sources import (
    MemorySource,
    drop_unreadable,
    join_sources,
    open_pictures,
    open_source,
    scan_pictures,
)
from hybridcascade.errors import ClassListError, DataError, PictureError


def picture(path, colour=(1, 2, 3), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def encoded(colour=(1, 2, 3), ending="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(stream, ending)
    return stream.getvalue()


def archive(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_flat_folder_with_clutter(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "Ä ö.png"):
        picture(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "Thumbs.db", "__MACOSX/x.png", ".git/y.png", "._a.JPG", "desktop.ini"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.ids == ("a.JPG", "b.png", "deep/er/c.webp", "Ä ö.png")
    assert source.classes is None
    assert {sample.label for sample in source.samples} == {None}
    assert len(source) == 4


def test_ids_that_differ_in_case_stay_two(tmp_path):
    picture(tmp_path / "A.png", (255, 0, 0))
    picture(tmp_path / "a.png", (0, 0, 255))
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system does not tell A from a")
    source = open_source(tmp_path)
    assert source.ids == ("A.png", "a.png")
    assert source.open(0).getpixel((0, 0)) != source.open(1).getpixel((0, 0))


def test_folder_per_class(tmp_path):
    for name in ("fear/1.png", "awe/1.png", "awe/more/2.png"):
        picture(tmp_path / name)
    source = open_source(tmp_path)
    assert source.classes == ("awe", "fear")
    assert [(s.id, s.label) for s in source.samples] == [("awe/1.png", 0), ("awe/more/2.png", 0), ("fear/1.png", 1)]
    given = open_source(tmp_path, classes=("fear", "joy", "awe"))
    assert given.labels(("fear", "joy", "awe")).tolist() == [2, 2, 0]


def test_split_folders_and_shared_folders(tmp_path):
    for name in ("data/train/awe/1.png", "data/train/fear/1.png", "data/valid/awe/2.png", "data/test/fear/3.png"):
        picture(tmp_path / name)
    source = open_source(tmp_path)
    assert source.classes == ("awe", "fear")
    assert [s.split for s in source.samples] == ["test", "train", "train", "val"]
    assert open_source(tmp_path, split="train").ids == ("data/train/awe/1.png", "data/train/fear/1.png")
    with pytest.raises(DataError, match="pictures of split 'dev', found the splits test, train, val"):
        open_source(tmp_path, split="dev")


def test_folders_that_are_no_classes_leave_pictures_unlabelled(tmp_path, caplog):
    for name in ("awe/1.png", "faer/2.png"):
        picture(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        source = open_source(tmp_path, classes=("awe", "fear"))
    assert [s.label for s in source.samples] == [0, None]
    assert "1 folders are named like no class, first 'faer'. Did you mean 'fear'?" in caplog.text
    with pytest.raises(
        DataError, match=r"label or votes for every picture, found neither for 1 of 2, first 'faer/2.png'"
    ):
        source.targets(("awe", "fear"))
    one = tmp_path / "one"
    picture(one / "awe" / "1.png")
    assert open_source(one).classes is None
    assert [s.label for s in open_source(one, classes=("awe", "fear")).samples] == [0]


def test_targets_follow_the_order_asked_for(tmp_path):
    for name in ("fear/1.png", "awe/1.png"):
        picture(tmp_path / name)
    source = open_source(tmp_path)
    assert source.targets(("fear", "joy", "awe")).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert source.targets(("fear", "awe")).dtype == torch.float32
    with pytest.raises(ClassListError, match=r"expected only the classes feer, awe, found 'fear'. Did you mean 'feer'"):
        source.targets(("feer", "awe"))
    bare = source.unlabeled()
    assert bare.classes is None
    assert {(s.label, s.votes) for s in bare.samples} == {(None, None)}
    assert bare.ids == source.ids


def test_empty_folder_and_missing_path(tmp_path):
    with pytest.raises(DataError, match="expected at least one picture, found no file"):
        open_source(tmp_path)
    (tmp_path / "x.heic").write_bytes(b"x")
    (tmp_path / "y.heic").write_bytes(b"x")
    (tmp_path / "z").write_bytes(b"x")
    with pytest.raises(DataError, match=r"expected at least one picture, found 2 \.heic, 1 without ending"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="nowhere: expected a picture, folder, manifest or zip, found nothing"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected a known kind of file, found '\.heic'"):
        open_source(tmp_path / "x.heic")


def test_single_picture(tmp_path):
    picture(tmp_path / "sub" / "a b.png", (9, 8, 7))
    source = open_source(tmp_path / "sub" / "a b.png")
    assert source.ids == ("a b.png",)
    assert source.open(0).getpixel((0, 0)) == (9, 8, 7)


def spoiled(folder):
    picture(folder / "good1.png")
    picture(folder / "good2.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG")
    (folder / "cut.jpg").write_bytes(stream.getvalue()[:-900])
    return folder


def test_unreadable_pictures_are_skipped_counted_and_listed(tmp_path, caplog):
    source = open_source(spoiled(tmp_path))
    problems = scan_pictures(source)
    assert [problem.id for problem in problems] == ["cut.jpg", "empty.png", "text.jpg"]
    assert "truncated" in problems[0].reason
    with caplog.at_level(logging.WARNING):
        good, listed = drop_unreadable(source)
    assert good.ids == ("good1.png", "good2.png")
    assert good.open(1).size == (8, 6)
    assert listed == problems
    assert "3 of 5 pictures cannot be read" in caplog.text


def test_strict_stops_at_the_first_unreadable_picture(tmp_path):
    spoiled(tmp_path)
    for act in (
        lambda: open_source(tmp_path, strict=True),
        lambda: scan_pictures(open_source(tmp_path), strict=True, workers=3),
        lambda: drop_unreadable(open_source(tmp_path), strict=True),
    ):
        with pytest.raises(PictureError, match=r"cut\.jpg: expected a readable picture"):
            act()


def test_nothing_but_unreadable_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"at least one readable picture, found none of 1; first: a\.png"):
        drop_unreadable(open_source(tmp_path))


def test_a_file_that_vanishes_is_a_picture_error(tmp_path):
    picture(tmp_path / "a.png")
    source = open_source(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(PictureError, match=r"a\.png: expected a readable file, found No such file"):
        source.open(0)


def test_large_pictures_are_listed_too(tmp_path):
    picture(tmp_path / "a.png", size=(40, 40))
    picture(tmp_path / "b.png", size=(10, 10))
    problems = scan_pictures(open_source(tmp_path, max_pixels=100))
    assert [problem.id for problem in problems] == ["a.png"]
    assert "at most 100 pixels" in problems[0].reason


def test_links_to_folders_are_followed_once(tmp_path):
    picture(tmp_path / "real" / "a.png")
    try:
        (tmp_path / "real" / "loop").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "other").symlink_to(tmp_path / "real", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let us make links")
    assert open_source(tmp_path).ids == ("other/a.png", "real/a.png")


def test_zip_holds_any_of_these(tmp_path):
    flat = archive(
        tmp_path / "flat.zip", {"p/b.png": encoded(), "p/a.png": encoded((5, 5, 5)), "__MACOSX/._a.png": b""}
    )
    source = open_source(flat)
    assert source.ids == ("p/a.png", "p/b.png")
    assert source.open(0).getpixel((0, 0)) == (5, 5, 5)
    folders = archive(tmp_path / "c.zip", {"top/awe/1.png": encoded(), "top/fear/2.png": encoded()})
    assert open_source(folders).classes == ("awe", "fear")
    table = "path,label\na.png,fear\n"
    for inside in ({"manifest.csv": table, "a.png": encoded()}, {"top/labels.csv": table, "top/a.png": encoded()}):
        source = open_source(archive(tmp_path / "m.zip", inside), classes=("awe", "fear"))
        assert [(s.id, s.label) for s in source.samples] == [("a.png", 1)]
        assert source.open(0).size == (8, 6)
    other = archive(tmp_path / "o.zip", {"OASIS.csv": "Theme,valence\nx,1\n", "a.png": encoded(), "b.png": encoded()})
    assert len(open_source(other)) == 2


def test_two_manifests_are_one_too_many(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path\nx.png\n")
    with pytest.raises(DataError, match=r"expected one manifest, found a.csv, b.csv"):
        open_source(tmp_path)


def test_zip_survives_pickling_and_forking(tmp_path):
    source = open_source(archive(tmp_path / "z.zip", {"a.png": encoded((5, 5, 5)), "b.png": encoded()}))
    source.open(0)
    again = pickle.loads(pickle.dumps(source))
    assert again.open(0).getpixel((0, 0)) == (5, 5, 5)
    assert again.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("content", [b"", b"not a zip at all", None])
def test_corrupt_zip(content, tmp_path):
    path = archive(tmp_path / "z.zip", {"a.png": encoded()})
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(DataError, match=r"z\.zip: expected a zip archive, found .*copy or download it again"):
        open_source(path)


def test_corrupt_entry_of_a_zip_is_one_unreadable_picture(tmp_path):
    path = archive(tmp_path / "z.zip", {"a.png": encoded(), "b.png": encoded()})
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF  # inside the first picture: its checksum no longer fits
    path.write_bytes(content)
    good, problems = drop_unreadable(open_source(path))
    assert good.ids == ("b.png",)
    assert [problem.id for problem in problems] == ["a.png"]
    assert "damaged archive entry" in problems[0].reason


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "..\\evil.png"])
def test_zip_slip_is_refused(name, tmp_path):
    path = archive(tmp_path / "z.zip", {"a.png": encoded(), name: encoded()})
    with pytest.raises(DataError, match=r"z\.zip: expected names inside the archive, found .*evil\.png"):
        open_source(path)


def test_the_same_name_twice_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("a.png", encoded())
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.png", encoded((9, 9, 9)))
    with pytest.raises(DataError, match=r"expected each name once, found 'a.png' twice"):
        open_source(tmp_path / "z.zip")


def test_encrypted_and_oversized_entries_are_unreadable_pictures(tmp_path, monkeypatch):
    path = archive(tmp_path / "z.zip", {"a.png": encoded()})
    source = open_source(path)
    monkeypatch.setattr("hybridcascade.data.archives.MAX_ENTRY_BYTES", 10)
    assert "more than 10" in scan_pictures(source)[0].reason
    monkeypatch.undo()
    content = path.read_bytes()
    for header, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(header) + flag
        content = content[:at] + b"\x01" + content[at + 1 :]
    path.write_bytes(content)
    assert "encrypted" in scan_pictures(open_source(path))[0].reason


def test_an_empty_zip_and_one_without_pictures(tmp_path):
    with pytest.raises(DataError, match="expected at least one picture, found no file"):
        open_source(archive(tmp_path / "z.zip", {}))
    with pytest.raises(DataError, match=r"expected at least one picture, found 1 \.txt"):
        open_source(archive(tmp_path / "z.zip", {"a.txt": b"x"}))


def test_a_zip_reads_in_threads(tmp_path):
    entries = {f"{i:03d}.png": encoded((i, i, i)) for i in range(100)}
    source = open_source(archive(tmp_path / "z.zip", entries))
    assert scan_pictures(source, workers=8) == []
    assert isinstance(source.pictures[0].tree, ZipTree)


def test_fingerprint_tells_data_apart(tmp_path):
    picture(tmp_path / "awe" / "1.png")
    picture(tmp_path / "fear" / "2.png")
    first = open_source(tmp_path).fingerprint()
    assert open_source(tmp_path).fingerprint() == first
    assert open_source(tmp_path).unlabeled().fingerprint() != first
    assert open_source(tmp_path).take([1, 0]).fingerprint() != first
    picture(tmp_path / "fear" / "2.png", size=(50, 50))
    assert open_source(tmp_path).fingerprint() != first


def test_memory_source():
    images = np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3)
    votes = np.array([[3, 1], [0, 2], [1, 1], [5, 0]])
    source = MemorySource(images, ["a", "b", "c", "d"], votes, ("x", "y"), labels=[0, 1, 1, 0])
    assert np.array_equal(source.open(2), images[2])
    assert source.targets(("y", "x")).tolist() == [[0.25, 0.75], [1, 0], [0.5, 0.5], [0, 1]]
    assert source.labels(("x", "y")).tolist() == [0, 1, 1, 0]
    assert MemorySource(images, targets=votes, classes=("x", "y")).labels(("x", "y")).tolist() == [0, 1, 0, 0]
    part = source.take([3, 1])
    assert part.ids == ("d", "b")
    assert np.array_equal(part.open(0), images[3])
    assert torch.equal(part.stack[1], source.stack[1])
    assert part.fingerprint() != source.fingerprint()
    assert MemorySource(images).ids[0] == "000000"
    assert scan_pictures(source) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, r"expected uint8 pictures \[N, H, W, 3\]"),
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, "found float32"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one picture"),
        ({"ids": ["a"]}, "expected 2 of each, found 1 ids"),
        ({"ids": ["a", "a"]}, "expected every id once, found 'a' twice"),
        ({"targets": np.ones((2, 3)), "classes": ("x", "y")}, r"targets \[2, 2\], found \[2, 3\]"),
        ({"targets": np.ones((2, 2))}, "class names beside them"),
        ({"targets": [[1, 0], [0, 0]], "classes": ("x", "y")}, "row 1 of the targets: expected numbers >= 0"),
        ({"targets": [[1, -1], [0, 1]], "classes": ("x", "y")}, "row 0 of the targets"),
        ({"targets": [[np.nan, 1], [0, 1]], "classes": ("x", "y")}, "row 0 of the targets"),
        ({"labels": [0, 2], "classes": ("x", "y")}, r"expected labels in 0\.\.1"),
    ],
)
def test_wrong_memory_sources(options, message):
    with pytest.raises(DataError, match=message):
        MemorySource(**{"images": np.zeros((2, 4, 4, 3), np.uint8), **options})


def test_open_pictures_of_every_kind(tmp_path):
    for name in ("f/1.png", "f/g/2.png", "x/a.png", "y/a.png"):
        picture(tmp_path / name)
    memory = np.full((5, 4, 3), 7, np.uint8)
    source = open_pictures(
        [tmp_path / "x/a.png", Image.new("L", (3, 3), 9), str(tmp_path / "f"), memory, tmp_path / "y/a.png"]
    )
    root = tmp_path.as_posix()
    assert source.ids == (
        f"{root}/x/a.png",
        "image-0002",
        f"{root}/f/1.png",
        f"{root}/f/g/2.png",
        "image-0004",
        f"{root}/y/a.png",
    )
    assert source.open(1).getpixel((0, 0)) == (9, 9, 9)
    assert source.open(4).getpixel((0, 0)) == (7, 7, 7)
    assert open_pictures(tmp_path / "f").ids == ("1.png", "g/2.png")
    assert open_pictures(Image.new("RGBA", (3, 3))).open(0).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(DataError, match="found an empty list"):
        open_pictures([])
    with pytest.raises(DataError, match=r"picture 1: expected a uint8 array"):
        open_pictures([np.zeros((4, 4))])
    with pytest.raises(DataError, match="expected every id once"):
        open_pictures([tmp_path / "x/a.png", tmp_path / "x/a.png"])
    assert len(join_sources([source, MemorySource(memory[None])])) == 7
