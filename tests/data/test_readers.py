"""Readers of published data sets: each layout written here as it is published, and each of its traps.

The fixtures are written by hand in the format of the files, never through the reader's own code.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from hybridcascade.data.readers.base import READERS, Reader, register_reader
from hybridcascade.data.readers.catalogue import read_dataset
from hybridcascade.data.sources import open_source
from hybridcascade.errors import ClassListError, DataError, ManifestError, SettingsError, UnknownNameError

MIKELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (seed * 37 % 256, seed * 91 % 256, seed * 13 % 256)).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())


def read(path: Path, form: str = "auto", make_split: str | None = None):
    found = read_dataset(path, form, make_split)
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------------- Emotion6

EMOTION6_HEADER = "\t".join(
    ["[image_filename]", "[valence]", "[arousal]"]
    + [f"[prob. {name}]" for name in ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")]
)


def emotion6(root: Path) -> Path:
    lines = [
        EMOTION6_HEADER,
        "disgust/1.jpg\t2.5\t3.8\t0.133333\t0.7\t0\t0.0666667\t0.1\t0\t0",
        "joy/2.jpg\t6.3\t5.7\t0\t0\t0.4\t0.4\t0\t0\t0.2",  # a tie
        "fear/3.jpg\t5\t4\t0\t0\t0.1\t0.3\t0\t0\t0.6",  # keyword fear, neutral wins; joy without neutral
        "anger/4.jpg\t5\t4\t0\t0\t0\t0\t0\t0\t1",  # votes for neutral alone
        "sadness/5.jpg\t5\t4\t0\t0\t0\t0\t1\t0\t0",  # listed, not there
    ]
    text(root / "ground_truth.txt", "\n".join(lines) + "\n")
    for number, name in enumerate(("disgust/1", "joy/2", "fear/3", "anger/4")):
        picture(root / "images" / f"{name}.jpg", number)
    return root


def test_emotion6_keeps_votes_and_keyword_apart(tmp_path: Path) -> None:
    found = read(emotion6(tmp_path))
    assert found.format == "emotion6"
    assert found.classes == ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
    assert [row.label for row in found.rows] == [1, None, 6, 6]
    assert [row.keyword for row in found.rows] == ["disgust", "joy", "fear", "anger"]
    assert found.rows[0].votes == (0.133333, 0.7, 0.0, 0.0666667, 0.1, 0.0, 0.0)
    assert found.rows[0].facts == {"valence": "2.5", "arousal": "3.8"}
    assert found.missing == ("images/sadness/5.jpg",)
    assert found.split is None


def test_emotion6_with_six_classes_and_with_keywords(tmp_path: Path) -> None:
    six = read(emotion6(tmp_path), "emotion6@classes=6")
    assert six.classes[-1] == "surprise"
    assert [row.label for row in six.rows] == [1, None, 3]
    assert six.left_out == {"votes for neutral alone": 1}
    words = read(tmp_path, "emotion6@label=keyword")
    assert [six.classes[row.label or 0] for row in words.rows] == ["disgust", "joy", "fear", "anger"]
    assert all(row.votes is None for row in words.rows)


def test_emotion6_follows_a_shuffled_header_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    root = emotion6(tmp_path)
    lines = (root / "ground_truth.txt").read_text().splitlines()
    order = [0, 1, 2, 9, 8, 7, 6, 5, 4, 3]
    text(root / "ground_truth.txt", "\n".join("\t".join(line.split("\t")[i] for i in order) for line in lines))
    found = read(root)
    assert found.classes[0] == "neutral"
    assert [found.classes[row.label] for row in found.rows if row.label is not None] == [
        "disgust",
        "neutral",
        "neutral",
    ]
    text(root / "ground_truth.txt", "\n".join(lines).replace("[prob. joy]", "[prob. joi]"))
    with pytest.raises(ManifestError, match="Did you mean 'joy'"):
        read(root)


@pytest.mark.parametrize(("old", "new"), [("\t0.7\t", "\tx\t"), ("\t0.7\t", "\t"), ("\t0.7\t", "\t-0.7\t")])
def test_emotion6_names_a_wrong_row(tmp_path: Path, old: str, new: str) -> None:
    root = emotion6(tmp_path)
    content = (root / "ground_truth.txt").read_text()
    text(root / "ground_truth.txt", content.replace(old, new, 1))
    with pytest.raises(ManifestError, match=r"ground_truth\.txt, row 2"):
        read(root)


def test_emotion6_in_a_zip_with_a_folder_has_the_same_ids_and_splits(tmp_path: Path) -> None:
    root = emotion6(tmp_path / "Emotion6")
    packed = tmp_path / "emotion6.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, f"Emotion6/{file.relative_to(root).as_posix()}")
    one, other = (open_source(path, make_split="hash:0.5") for path in (root, packed))
    assert [(s.id, s.split, s.votes) for s in one.samples] == [(s.id, s.split, s.votes) for s in other.samples]
    assert other.open(0).size == (8, 8)


def test_emotionroi_reads_its_split_files(tmp_path: Path) -> None:
    root = emotion6(tmp_path)
    text(root / "training_testing_split/training.txt", "disgust/1.jpg\njoy/2.jpg\n\n")
    text(root / "training_testing_split/testing.txt", "fear/3.jpg\nanger/4.jpg\n")
    found = read(root)
    assert (found.format, found.split) == ("emotionroi", "official")
    assert [row.split for row in found.rows] == ["train", "train", "test", "test"]
    text(root / "training_testing_split/testing.txt", "fear/3.jpg\njoy/2.jpg\n")
    with pytest.raises(ManifestError, match=r"testing\.txt, line 2.*one split"):
        read(root)


# ---------------------------------------------------------------------------------------------- EmoSet


def emoset(root: Path, info: object | None = None) -> Path:
    numbers = {name: i for i, name in enumerate(MIKELS)}
    text(root / "info.json", json.dumps(info or {"emotion": {"label2idx": numbers}, "scene": {"label2idx": {}}}))
    splits = {"train": [("awe", 1), ("fear", 2)], "val": [("sadness", 3)], "test": [("anger", 4)]}
    for split, rows in splits.items():
        entries = []
        for emotion, number in rows:
            name = f"{emotion}/{emotion}_{number:05d}"
            picture(root / f"image/{name}.jpg", number)
            note = {"image_id": name, "emotion": emotion, "brightness": 0.5, "object": ["Tree", "Sky"]}
            text(root / f"annotation/{name}.json", json.dumps(note))
            entry = [emotion, f"image/{name}.jpg", f"annotation/{name}.json"]
            entries.append(entry if split == "train" else [emotion, f"{emotion}_{number:05d}", *entry[1:]])
        text(root / f"{split}.json", json.dumps(entries))
    return root


def test_emoset_reads_three_and_four_fields_and_the_numbers_of_info(tmp_path: Path) -> None:
    found = read(emoset(tmp_path))
    assert (found.format, found.classes, found.split) == ("emoset", MIKELS, "official")
    got = [(found.classes[row.label or 0], row.split) for row in found.rows]
    assert got == [("awe", "train"), ("fear", "train"), ("sadness", "val"), ("anger", "test")]
    assert found.rows[0].facts == {"annotation": "annotation/awe/awe_00001.json"}
    full = read(tmp_path, "emoset@attributes=read")
    assert full.rows[3].facts | {"annotation": ""} == {"annotation": "", "brightness": "0.5", "object": "Tree; Sky"}


def test_emoset_takes_another_numbering_and_guesses_none(tmp_path: Path) -> None:
    shuffled = {name: (i + 3) % 8 for i, name in enumerate(MIKELS)}
    found = read(emoset(tmp_path / "a", {"label2idx": shuffled}))
    assert found.classes[shuffled["awe"]] == "awe"
    assert found.rows[0].label == shuffled["awe"]
    with pytest.raises(ManifestError, match=r"info\.json: expected the number of each emotion"):
        read(emoset(tmp_path / "b", {"emotion": {"label2idx": {"awe": 0, "fear": 2}}}))
    root = emoset(tmp_path / "c")
    text(root / "val.json", json.dumps([["sadness", "x.jpg"]]))
    with pytest.raises(ManifestError, match=r"val\.json, entry 1"):
        read(root)


def test_a_split_that_exists_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data without a split"):
        read(emoset(tmp_path), make_split="hash:0.8")
    with pytest.raises(DataError, match="data without a split"):
        open_source(tmp_path, make_split="hash:0.8")
    assert open_source(tmp_path, split="val").ids == ("image/sadness/sadness_00003.jpg",)


# ---------------------------------------------------------------------------------------------- FI


def test_fi_reports_placeholders(tmp_path: Path) -> None:
    for i, name in enumerate(MIKELS):
        picture(tmp_path / f"emotion_dataset/{name}/{name}_1.jpg", i + 1)
    for i in (0, 3, 5):
        picture(tmp_path / f"emotion_dataset/{MIKELS[i]}/{MIKELS[i]}_9.jpg", 200)
    found = read(tmp_path)
    assert (found.format, found.classes, found.split) == ("fi", MIKELS, None)
    assert found.left_out == {"placeholder pictures": 3}
    assert {name.rpartition("_")[2] for name in found.placeholders} == {"9.jpg"}
    assert [found.classes[row.label or 0] for row in found.rows] == [row.path.split("/")[1] for row in found.rows]
    assert len(found.rows) == 8
    assert {row.split for row in read(tmp_path, make_split="hash:0.5").rows} == {"train", "test"}


def test_fi_with_folders_of_splits(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for i, name in enumerate(MIKELS):
            picture(tmp_path / f"FI/{part}/{name}/{name}_{i}{part}.png", i + len(part) * 9)
    found = read(tmp_path / "FI")
    assert (found.format, found.split) == ("fi", "folders")
    assert {row.split for row in found.rows} == {"train", "val", "test"}
    assert all(row.path.split("/")[1] == found.classes[row.label or 0] for row in found.rows)


# ---------------------------------------------------------------------------------------------- Flickr_LDL, Twitter_LDL

LDL_HEADER = "images-name Amusement Awe Contentment Excitement Anger Disgust Fear Sadness"
LDL_VOTES = {"1.jpg": (0, 6, 3, 0, 0, 0, 1, 1), "2.jpg": (0, 0, 0, 0, 5, 5, 1, 0), "3.jpg": (0, 0, 11, 0, 0, 0, 0, 0)}


def ldl(root: Path, header: str = LDL_HEADER) -> Path:
    lines = [header, *(f"{name} {' '.join(map(str, votes))} " for name, votes in LDL_VOTES.items())]  # blank at the end
    text(root / "ground_truth.txt", "\n".join(lines) + "\n")
    for i, name in enumerate(LDL_VOTES):
        picture(root / "images" / name, i)
    return root


def test_flickr_ldl_follows_its_header(tmp_path: Path) -> None:
    found = read(ldl(tmp_path / "a"))
    assert (found.format, found.classes) == ("flickr_ldl", MIKELS)
    assert [row.label for row in found.rows] == [1, None, 2]
    assert "votes a picture: 11" in found.remarks
    swapped = read(ldl(tmp_path / "b", LDL_HEADER.replace("Awe Contentment", "Contentment Awe")))
    assert swapped.classes[1:3] == ("contentment", "awe")
    assert [row.label for row in swapped.rows] == [1, None, 2]
    with pytest.raises(ManifestError, match="not guessed"):
        read(ldl(tmp_path / "c", LDL_HEADER.replace("Awe", "Joy")))


def test_twitter_ldl_is_told_by_its_eight_votes(tmp_path: Path) -> None:
    root = ldl(tmp_path)
    text(root / "ground_truth.txt", f"{LDL_HEADER}\n1.jpg 0 0 0 0 0 0 0 8\n")
    assert read(root).format == "twitter_ldl"


def test_ldl_is_told_by_most_of_its_pictures(tmp_path: Path) -> None:
    root = ldl(tmp_path)
    odd, usual = "1.jpg 0 0 0 0 0 0 0 8", ["2.jpg 0 0 0 0 5 5 1 0", "", "3.jpg 0 0 11 0 0 0 0 0"]
    text(root / "ground_truth.txt", "\n".join([LDL_HEADER, odd, *usual]) + "\n")
    found = read(root)
    assert found.format == "flickr_ldl"
    assert "votes a picture: 8 to 11" in found.remarks
    many = [LDL_HEADER, *(f"{n}.jpg 0 0 0 0 0 0 0 {8 if n < 30 else 11}" for n in range(99))]
    text(root / "ground_truth.txt", "\n".join(many) + "\n")
    assert read(root).format == "twitter_ldl", "of the first fifty"


def mat_arrays(turned: bool = True):
    import numpy as np

    votes = np.array(list(LDL_VOTES.values()), dtype=float)
    return {
        "imgname": np.array([[name] for name in LDL_VOTES], dtype=object),
        "vote": votes.T if turned else votes,
        "train_ind": np.array([[1, 2], [2, 3]]),
        "test_ind": np.array([[3], [1]]),
    }


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)


def fake_scipy(monkeypatch: pytest.MonkeyPatch, arrays: dict) -> None:
    """The function of scipy that is used, giving arrays as it gives them: cells are object arrays."""
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "scipy", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "scipy.io", SimpleNamespace(loadmat=lambda _stream: dict(arrays)))


@pytest.mark.parametrize("turned", [True, False])
def test_ldl_folds_and_votes_of_a_mat_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    root = ldl(tmp_path)
    text(root / "Flickr_config.mat", "MATLAB 5.0 MAT-file")
    fake_scipy(monkeypatch, mat_arrays(turned))
    assert read(root).split is None
    one = read(root, "flickr_ldl@split=official")
    assert [row.split for row in one.rows] == ["train", "train", "test"]
    two = read(root, "flickr_ldl@split=official,fold=2")
    assert [row.split for row in two.rows] == ["test", "train", "train"]
    assert any("turned" in remark for remark in one.remarks) == turned
    (root / "ground_truth.txt").unlink()
    with pytest.raises(DataError, match="order of the classes"):
        read(root, "flickr_ldl")
    said = read(root, "flickr_ldl@order=positive_first")
    assert [row.votes for row in said.rows] == [tuple(map(float, v)) for v in LDL_VOTES.values()]
    with pytest.raises(SettingsError, match="folds 1 to 2"):
        read(root, "flickr_ldl@order=positive_first,split=official,fold=5")


def test_ldl_refuses_votes_and_folds_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ldl(tmp_path)
    text(root / "Flickr_config.mat", "MATLAB 5.0 MAT-file")
    arrays = mat_arrays()
    fake_scipy(monkeypatch, arrays | {"vote": arrays["vote"][:7]})
    with pytest.raises(ManifestError, match="votes 8 x 3 or 3 x 8"):
        read(root, "flickr_ldl@split=official")
    fake_scipy(monkeypatch, arrays | {"test_ind": arrays["train_ind"]})
    with pytest.raises(ManifestError, match="make_split"):
        read(root, "flickr_ldl@split=official")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ldl(tmp_path)
    text(root / "Flickr_config.mat", "MATLAB 5.0 MAT-file")
    without(monkeypatch, "scipy.io")
    with pytest.raises(DataError, match=r"scipy to read a MATLAB 5 file.*pip install 'hybridcascade\[mat\]'"):
        read(root, "flickr_ldl@split=official")
    (root / "Flickr_config.mat").write_bytes(b" " * 512 + b"\x89HDF\r\n\x1a\n")
    without(monkeypatch, "h5py")
    with pytest.raises(DataError, match=r"h5py to read a MATLAB 7.3 file.*pip install 'hybridcascade\[mat\]'"):
        read(root, "flickr_ldl@split=official")


def test_a_real_mat_file_of_version_5(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    root = ldl(tmp_path)
    io.savemat(root / "Flickr_config.mat", mat_arrays())
    found = read(root, "flickr_ldl@split=official")
    assert [row.split for row in found.rows] == ["train", "train", "test"]


def test_a_real_mat_file_of_version_7_3(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    import numpy as np

    root = ldl(tmp_path)
    arrays = mat_arrays()
    with h5py.File(root / "Flickr_config.mat", "w", userblock_size=512) as file:
        for key in ("vote", "train_ind", "test_ind"):
            file[key] = np.asarray(arrays[key], dtype=float).T  # as MATLAB stores an array
        names = file.create_dataset("imgname", (1, len(LDL_VOTES)), dtype=h5py.ref_dtype)
        for i, name in enumerate(LDL_VOTES):
            file[f"#refs#/{i}"] = np.array([[ord(c)] for c in name], dtype=np.uint16)
            names[0, i] = file[f"#refs#/{i}"].ref
    (root / "ground_truth.txt").unlink()
    found = read(root, "flickr_ldl@split=official,order=positive_first")
    assert [row.votes for row in found.rows] == [tuple(map(float, v)) for v in LDL_VOTES.values()]
    assert [row.split for row in found.rows] == ["train", "train", "test"]


# ---------------------------------------------------------------------------------------------- Abstract, ArtPhoto


def test_abstract_strips_quotes_and_knows_ties(tmp_path: Path) -> None:
    header = "'','Amusement','Anger','Awe','Content','Disgust','Excitement','Fear','Sad'"
    rows = ["'abstract_0001.jpg',0,1,2,7,0,3,1,0", "'abstract_0002.jpg',4,0,4,0,0,0,0,1"]
    root = tmp_path / "testImages_abstract"
    text(root / "ABSTRACT_groundTruth.csv", "\r\n".join([header, *rows]) + "\r\n")
    for i in (1, 2):
        picture(root / f"abstract_000{i}.jpg", i)
    found = read(tmp_path)
    assert found.format == "abstract"
    assert found.classes == ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
    assert [row.label for row in found.rows] == [3, None]
    assert found.rows[1].votes == (4, 0, 4, 0, 0, 0, 0, 1)
    dropped = read(root, "abstract@ties=drop")
    assert (len(dropped.rows), dropped.left_out) == (1, {"ties": 1})
    text(root / "ABSTRACT_groundTruth.csv", "\n".join([header.replace("Awe", "Awfe"), *rows]))
    with pytest.raises(ManifestError, match="Did you mean 'awe'"):
        read(tmp_path)


def test_artphoto_takes_labels_from_names(tmp_path: Path) -> None:
    for i, name in enumerate(("amusement_0001", "sad_0002", "sad_0003", "fear_0101")):
        picture(tmp_path / f"testImages_artphoto/{name}.jpg", i)
    found = read(tmp_path)
    assert (found.format, found.classes) == ("artphoto", MIKELS)
    assert [found.classes[row.label or 0] for row in found.rows] == ["amusement", "fear", "sadness", "sadness"]
    picture(tmp_path / "testImages_artphoto/other_0001.jpg")
    assert read_dataset(tmp_path) is None


# ---------------------------------------------------------------------------------------------- ArtEmis, FER+


def test_artemis_counts_annotations(tmp_path: Path) -> None:
    rows = [
        ("Cubism", "a-b_c", "awe", '"quiet, and ""blue"""'),
        ("Cubism", "a-b_c", "awe", "x"),
        ("Cubism", "a-b_c", "something else", "x"),
        ("Baroque", "d", "something else", '"two\nlines"'),
    ]
    lines = ["art_style,painting,emotion,utterance", *(",".join(row) for row in rows)]
    text(tmp_path / "artemis_dataset_release_v0.csv", "\n".join(lines) + "\n")
    picture(tmp_path / "wikiart/Cubism/a-b_c.jpg", 1)
    picture(tmp_path / "wikiart/Baroque/d.jpg", 2)
    found = read(tmp_path)
    assert (found.format, found.classes) == ("artemis", (*MIKELS, "something else"))
    assert [row.votes for row in found.rows] == [(0, 2, 0, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0, 0, 0, 1)]
    eight = read(tmp_path, "artemis@others=drop")
    assert [row.votes for row in eight.rows] == [(0, 2, 0, 0, 0, 0, 0, 0)]
    assert eight.left_out == {"annotated with 'something else' alone": 1}


def test_ferplus_leaves_out_faces_without_a_name(tmp_path: Path) -> None:
    lines = [
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF",
        "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",
        "Training,,0,0,0,0,0,0,0,0,0,10",
        "PublicTest,fer0000002.png,0,0,0,0,0,0,3,0,7,0",
        "PrivateTest,fer0000003.png,0,0,0,0,0,0,0,0,10,0",
        "PrivateTest,fer0000004.png,0,5,5,0,0,0,0,0,0,0",
    ]
    text(tmp_path / "fer2013new.csv", "\r\n".join(lines) + "\r\n")
    for folder, number in (("FER2013Train", 0), ("FER2013Valid", 2), ("FER2013Test", 3), ("FER2013Test", 4)):
        picture(tmp_path / folder / f"fer000000{number}.png", number)
    found = read(tmp_path)
    assert (found.format, found.split) == ("ferplus", "official")
    assert [(row.path, row.label, row.split) for row in found.rows] == [
        ("FER2013Train/fer0000000.png", 0, "train"),
        ("FER2013Valid/fer0000002.png", 6, "val"),
        ("FER2013Test/fer0000004.png", None, "test"),
    ]
    assert found.left_out == {"no face (NF)": 1, "no vote for an emotion": 1}
    assert found.rows[1].facts == {"votes_unknown": "7", "votes_nf": "0"}


# ---------------------------------------------------------------------------------------------- CoOp


def test_a_split_file_of_coop(tmp_path: Path) -> None:
    content = {"train": [["cats/1.jpg", 1, "house_cat"]], "val": [["dogs/2.jpg", 0, "dog"]], "test": []}
    text(tmp_path / "split_zhou_Pets.json", json.dumps(content))
    picture(tmp_path / "pictures_of_pets/cats/1.jpg")
    picture(tmp_path / "pictures_of_pets/dogs/2.jpg")
    found = read(tmp_path)
    assert (found.format, found.classes) == ("split_zhou", ("dog", "house_cat"))
    assert [(row.path, row.label, row.split) for row in found.rows] == [
        ("pictures_of_pets/cats/1.jpg", 1, "train"), ("pictures_of_pets/dogs/2.jpg", 0, "val")
    ]  # fmt: skip
    one = open_source(tmp_path / "split_zhou_Pets.json", split="val")
    assert (one.ids, one.classes) == (("pictures_of_pets/dogs/2.jpg",), ("dog", "house_cat"))
    text(tmp_path / "split_zhou_Other.json", json.dumps(content))
    with pytest.raises(DataError, match="one split_zhou file"):
        open_source(tmp_path)


# ---------------------------------------------------------------------------------------------- all of them


def test_a_source_of_a_data_set_is_like_any_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source = open_source(emotion6(tmp_path))
    assert "1 of 5 listed pictures are not there" in caplog.text
    assert source.targets(source.classes or ())[2].tolist() == pytest.approx([0, 0, 0.1, 0.3, 0, 0, 0.6])
    with pytest.raises(DataError, match=r"--make_split hash:0\.8"):
        open_source(tmp_path, split="train")
    with pytest.raises(ClassListError, match="'neutral' in Emotion6"):
        open_source(tmp_path, classes=source.classes[:-1])
    assert open_source(tmp_path, form="none").samples[0].votes is None


def test_a_made_split_depends_on_the_id_alone(tmp_path: Path) -> None:
    for i in range(200):
        picture(tmp_path / f"{'awe' if i % 2 else 'fear'}/{i}.png", i)
    parts = {s.id: s.split for s in open_source(tmp_path, make_split="hash:0.7,0.1").samples}
    shares = [sum(part == name for part in parts.values()) / 200 for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.1)
    for name in [name for name in parts if name.endswith("7.png")]:
        (tmp_path / name).unlink()
    fewer = {s.id: s.split for s in open_source(tmp_path, make_split="hash:0.7,0.1").samples}
    assert fewer == {name: parts[name] for name in fewer}
    train = {name for name, part in parts.items() if part == "train"}
    wider = open_source(tmp_path, split="train", make_split="hash:0.9").ids
    assert (train & fewer.keys()) <= set(wider)


@pytest.mark.parametrize(
    "rule", ["hash", "hash:1", "hash:0", "hash:0.8,0.2", "random:0.8", "hash:0.5,0.1,0.1", "hash:x"]
)
def test_other_rules_are_refused(tmp_path: Path, rule: str) -> None:
    with pytest.raises(SettingsError, match=r"hash:0\.8"):
        open_source(emotion6(tmp_path), make_split=rule)


def test_wrong_formats_and_options_are_told(tmp_path: Path) -> None:
    root = emotion6(tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'emotion6'"):
        open_source(root, form="emotion7")
    with pytest.raises(UnknownNameError, match="value of classes"):
        open_source(root, form="emotion6@classes=5")
    with pytest.raises(UnknownNameError, match="Did you mean 'classes'"):
        open_source(root, form="emotion6@class=6")
    with pytest.raises(SettingsError, match="key=value"):
        open_source(root, form="emotion6@six")
    with pytest.raises(DataError, match=r"ground_truth|info\.json"):
        open_source(root, form="emoset")


def test_the_registry_is_guarded() -> None:
    def reader(name: str, **options: tuple[str, ...]) -> Reader:
        return Reader(name, "x", "x", lambda _place: False, lambda _place, _options: None, options)  # type: ignore[arg-type]

    for name in ("emotion6", "none", "Big", "auto"):
        with pytest.raises(ValueError, match="reader"):
            register_reader(reader(name))
    with pytest.raises(ValueError, match="valid values"):
        register_reader(reader("fresh", empty=()))
    assert "fresh" not in READERS


def test_a_picture_listed_twice_is_refused(tmp_path: Path) -> None:
    root = ldl(tmp_path)
    content = (root / "ground_truth.txt").read_text()
    text(root / "ground_truth.txt", content + content.splitlines()[1] + "\n")
    with pytest.raises(ManifestError, match="each picture once"):
        read(root)


def test_readers_load_no_torch() -> None:
    code = "import sys, hybridcascade.data.readers.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
