import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.provenance import collect_provenance, git_state
from hybridcascade.engine.records import EpochRecord
from hybridcascade.errors import CheckpointError, OutputExistsError, OutputPlaceError


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def filled(path):
    folder = RunFolder.create(path)
    folder.write_config({"lr": 0.1})
    folder.model.mkdir()
    (folder.model / "model.json").write_text("{}")
    return folder


def test_a_place_for_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputPlaceError, match=r"expected a folder at '.*run'.*where you may write"):
        RunFolder.create(tmp_path / "file" / "run")


def test_new_and_empty_folders_are_taken(tmp_path):
    assert RunFolder.create(tmp_path / "a" / "b").is_run()
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty").is_run()


def test_an_earlier_run_is_refused_with_the_ways_out(tmp_path):
    filled(tmp_path / "r")
    before = content(tmp_path / "r")
    with pytest.raises(OutputExistsError, match=r"already holds a run; nothing was changed.*--resume.*--overwrite"):
        RunFolder.create(tmp_path / "r")
    assert content(tmp_path / "r") == before


def test_overwrite_replaces_a_run_and_keeps_what_is_not_of_it(tmp_path, caplog):
    folder = filled(tmp_path / "r")
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "extra.bin").write_text("ours")
    RunFolder.create(tmp_path / "r", overwrite=True, own=["extra.bin"])
    assert content(tmp_path / "r").keys() == {".hybridcascade-run", "notes.txt"}
    assert "kept what is not of it: notes.txt" in caplog.text


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_others_are_never_touched(tmp_path, overwrite):
    (tmp_path / "config.yaml").write_text("theirs")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_text("theirs")
    before = content(tmp_path)
    with pytest.raises(OutputExistsError, match=r"not of a run of this package \(config.yaml, model\). Nothing was"):
        RunFolder.create(tmp_path, overwrite=overwrite)
    assert content(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way(tmp_path, overwrite):
    (tmp_path / "r").write_text("theirs")
    with pytest.raises(OutputExistsError, match="exists and is no folder"):
        RunFolder.create(tmp_path / "r", overwrite=overwrite)
    assert (tmp_path / "r").read_text() == "theirs"


def test_a_link_inside_the_run_is_removed_and_not_followed(tmp_path):
    folder = filled(tmp_path / "r")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x").write_text("theirs")
    try:
        (folder.path / "logs").symlink_to(tmp_path / "elsewhere")
    except OSError:
        pytest.skip("no links here")
    RunFolder.create(tmp_path / "r", overwrite=True)
    assert (tmp_path / "elsewhere" / "x").read_text() == "theirs"


def test_only_the_first_process_makes_the_folder(tmp_path, monkeypatch):
    filled(tmp_path / "r")
    monkeypatch.setenv("LOCAL_RANK", "1")
    RunFolder.create(tmp_path / "r")  # rank 1 of the run that rank 0 has begun: no refusal
    RunFolder.create(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_open_wants_a_run_and_clears_temporary_files(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        RunFolder.open(tmp_path / "r")
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="is not a run folder"):
        RunFolder.open(tmp_path / "other")
    folder = filled(tmp_path / "r")
    (folder.model / ".model.9-ab.part.safetensors").write_text("half")
    RunFolder.open(tmp_path / "r")
    assert content(tmp_path / "r").keys() == {".hybridcascade-run", "config.yaml", str(Path("model/model.json"))}


def test_config_round_trip_with_paths_and_tuples(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    folder.write_config({"data": Path("photos"), "classes": ("é", "b"), "phases": {"text": {"lr": 5e-4}}, "none": None})
    assert folder.read_config() == {
        "data": "photos", "classes": ["é", "b"], "phases": {"text": {"lr": 0.0005}}, "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a: [", "- 1\n", ""])
def test_damaged_config(tmp_path, text):
    folder = RunFolder.create(tmp_path / "r")
    folder.config_file.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        folder.read_config()


def record(epoch):
    return EpochRecord("image", epoch, epoch + 1, 0.5, {"a": 1.0}, {"head": 0.1}, 2.0)


def test_metrics_round_trip_and_a_torn_last_line(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    assert folder.read_metrics() == []
    for epoch in range(3):
        folder.append_metrics(record(epoch))
    with folder.metrics_file.open("a") as file:
        file.write('{"phase": "image", "epo')
    assert folder.read_metrics() == [record(0), record(1), record(2)]
    folder.keep_metrics([record(0)])
    assert folder.read_metrics() == [record(0)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    folder.metrics_file.write_text('{}\n{"phase"\n')
    with pytest.raises(CheckpointError, match=r"line 1 of .*metrics.jsonl"):
        folder.read_metrics()


def test_provenance(tmp_path):
    folder = RunFolder.create(tmp_path / "r")
    provenance = collect_provenance(seed=3, dataset="abc", command=["hc", "my photos"], extra={"weights": "f0"})
    folder.write_provenance(provenance)
    found = json.loads(folder.provenance_file.read_text())
    assert found == provenance
    assert found["versions"].keys() == {"hybridcascade", "torch", "torchvision", "open_clip", "lightning"}
    assert (found["seed"], found["dataset"], found["weights"]) == (3, "abc", "f0")
    assert found["command"] == "hc 'my photos'"
    assert found["date"].endswith("+00:00")


def test_git_state_only_of_a_tracked_file(tmp_path):
    run = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    try:
        subprocess.run([*run, "init", "-q"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    (tmp_path / "a.py").write_text("1")
    assert git_state(tmp_path / "a.py") is None  # an installed copy below somebody's repository
    subprocess.run([*run, "add", "a.py"], check=True)
    subprocess.run([*run, "commit", "-qm", "x"], check=True)
    state = git_state(tmp_path / "a.py")
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "a.py").write_text("2")
    assert git_state(tmp_path / "a.py")["dirty"] is True


def test_folder_and_schedules_need_no_torch():
    code = (
        "import sys, hybridcascade.engine.folder, hybridcascade.engine.schedules, hybridcascade.engine.provenance; "
        "assert not {'torch', 'lightning'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
