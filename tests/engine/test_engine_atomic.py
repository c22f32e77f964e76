import errno
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from hybridcascade.engine import atomic
from hybridcascade.errors import OutputPlaceError


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces_and_leaves_nothing_beside(tmp_path):
    file = tmp_path / "new" / "a.json"
    atomic.write_json(file, {"a": 1})
    atomic.write_json(file, {"a": "é"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": "é"}
    assert names(tmp_path / "new") == ["a.json"]


def test_replacing_keeps_the_ending_for_writers_that_choose_by_it(tmp_path):
    with atomic.replacing(tmp_path / "t.parquet") as beside:
        assert beside.suffix == ".parquet"
        assert beside.parent == tmp_path
        beside.write_text("x")
        assert not (tmp_path / "t.parquet").exists()
    assert names(tmp_path) == ["t.parquet"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")

    def interrupted():
        with atomic.open_replacing(file) as handle:
            handle.write(b"half")
            raise KeyError("x")

    with pytest.raises(KeyError):
        interrupted()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_json_that_cannot_be_written_touches_nothing(tmp_path):
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "a", {"x": object()})
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputPlaceError, match=r"expected a folder at '.*file', .*found: .*\. Name a folder"):
        atomic.write_text(tmp_path / "file" / "table.md", "x")
    with pytest.raises(OutputPlaceError, match=r"expected a folder at .*found: Not a directory"):
        atomic.make_folder(tmp_path / "file" / "below")
    long = tmp_path / ("x" * 255)
    with pytest.raises(OutputPlaceError, match=r"expected a file that can be written at .*too long\. Name a file"):
        atomic.write_text(long, "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputPlaceError, match=r"written at '.*folder', found: Is a directory"):
        atomic.write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]
    with pytest.raises(FileNotFoundError), atomic.replacing(tmp_path / "a"):  # of another file: it is not renamed
        (tmp_path / "no").read_text()


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_old_file_and_says_so(tmp_path, monkeypatch, where, code):
    file = tmp_path / "a"
    file.write_text("old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, where, full)
    with pytest.raises(OSError, match="could not save; what was there before is unchanged") as caught:
        atomic.write_text(file, "new")
    assert caught.value.errno == code
    assert caught.value.filename == str(file)
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root")
def test_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        atomic.write_bytes(disk / "a", b"o" * 30_000)
        with pytest.raises(OSError, match="could not save") as caught:
            atomic.write_bytes(disk / "a", b"n" * 60_000)
        assert caught.value.errno == errno.ENOSPC
        assert (disk / "a").read_bytes() == b"o" * 30_000
        assert names(disk) == ["a"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    except OSError:
        pytest.skip("no links here")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path):
    (tmp_path / ".a.1-ff.part.json").write_text("half")
    (tmp_path / ".b.1-ff.part").write_text("half")
    (tmp_path / "a.json").write_text("whole")
    (tmp_path / ".hidden").write_text("whole")
    assert len(atomic.remove_leftovers(tmp_path)) == 2
    assert names(tmp_path) == [".hidden", "a.json"]
    assert atomic.remove_leftovers(tmp_path / "missing") == []


def test_readers_see_the_old_or_the_new_file_only(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", lambda _: None)  # waiting for the disk makes no difference to readers
    file = tmp_path / "a"
    contents = [bytes([i]) * 100_000 for i in range(4)]
    atomic.write_bytes(file, contents[0])
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            data = Path(file).read_bytes()
            seen.add((len(data), len(set(data))))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(25):
        atomic.write_bytes(file, contents[i % 4])
    stop.set()
    reader.join()
    assert seen == {(100_000, 1)}
