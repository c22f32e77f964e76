import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_toy
import torch
from toy_method import N, Numbers, Toy, both, plain_loader, texts, train_loader

from hybridcascade.engine.checkpoints import KEY, read_checkpoint
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.run import run_phases
from hybridcascade.errors import CheckpointError, HybridCascadeError, SettingsError

SCRIPT = Path(__file__).with_name("run_toy.py")
STEPS = N // 4  # optimiser steps an epoch of the image phase


posix = pytest.mark.skipif(os.name == "nt", reason="forkserver and SIGKILL are POSIX")


def start(folder, *options, hold_step=0):
    """A process of its own, forked from a server that has imported torch and Lightning once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hybridcascade.engine.run", "run_toy"])
    process = context.Process(target=run_toy.redirected, args=(folder, options, hold_step))
    process.start()
    return process


def finish(process, folder):
    process.join(timeout=500)
    out, err = (Path(f"{folder}{ending}").read_text() for ending in (".out", ".err"))
    assert process.exitcode == 0, err
    return out, err


def complete(folder, *options):
    return finish(start(folder, *options), folder)


def kill_in_step(folder, step, *options):
    process = start(folder, "hold", *options, hold_step=step)
    deadline = time.monotonic() + 400
    while not (folder / "here").exists():
        assert process.is_alive(), Path(f"{folder}.err").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "r"
    complete(folder)
    return folder


def metrics_without_time(folder):
    return [{**r.to_dict(), "seconds": 0} for r in RunFolder(folder).read_metrics()]


def assert_same(folder, other):
    one, two = torch.load(folder / "final.pt"), torch.load(other / "final.pt")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    assert metrics_without_time(folder) == metrics_without_time(other)


@posix
@pytest.mark.parametrize("step", [2, STEPS + 3, 3 * STEPS])
def test_kill_9_then_resume_is_bit_equal(tmp_path, undisturbed, step):
    folder = tmp_path / "r"
    kill_in_step(folder, step)
    assert not (folder / "final.pt").exists()
    _, err = complete(folder, "resume")
    assert "phase text is finished already" in err  # done once, not again
    assert ("phase image: resuming after epoch" in err) == (step >= STEPS)
    assert_same(folder, undisturbed)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("option", ["workers", "shuffle"])
def test_kill_9_with_worker_processes_or_a_loader_on_the_global_generator(tmp_path, option):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    complete(whole, option)
    kill_in_step(cut, 2 * STEPS + 1, option)
    complete(cut, "resume", option)
    assert_same(cut, whole)


@posix
def test_resuming_a_finished_run_does_nothing_and_says_so(undisturbed):
    files = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file() and p.name != "final.pt"}
    before = torch.load(undisturbed / "final.pt")
    _, err = complete(undisturbed, "resume")
    assert "all phases of this run are finished already: nothing left to train" in err
    after = torch.load(undisturbed / "final.pt")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {p: p.stat().st_mtime_ns for p in files} == files


def run(toy, folder, phases=None, resume=False, loader=None, **kwargs):
    loader = loader or train_loader()
    return run_phases(
        toy, phases or both(), texts(), loader, plain_loader(),
        folder=folder, resume=resume, accelerator="cpu", **kwargs,
    )  # fmt: skip


class Stop(Exception):
    pass


def interrupted(folder, step, **kwargs):
    """A run that an exception ends in a step of the image phase."""
    toy = Toy()
    loss = toy.training_loss

    def stop(phase, batch, at):
        if phase == "image" and at == step:
            raise Stop
        return loss(phase, batch, at)

    toy.training_loss = stop
    with pytest.raises(Stop):
        run(toy, folder, **kwargs)


def test_resume_calls_each_hook_of_the_epochs_left(tmp_path):
    interrupted(tmp_path, STEPS + 2)
    toy = Toy()
    records = run(toy, tmp_path, resume=True)
    assert [r.status for r in records] == ["already finished", "resumed"]
    begun = [event for event in toy.events if event[0].startswith("begin")]
    # the teacher's pass is repeated once from the state it had, whatever it leaves outside of tensors is back
    assert begun == [("begin_phase", "image", True), ("begin_epoch", "image", 1), ("begin_epoch", "image", 2)]
    assert [e[2] for e in toy.events if e[0] == "step"] == list(range(STEPS, 3 * STEPS))
    assert records[1].steps == 3 * STEPS
    assert [r.epoch for r in records[1].history] == [0, 1, 2]
    rows = (tmp_path / "logs" / "csv" / "image" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 4  # header and all three epochs, those before the resume too


def test_resume_gets_the_sampler_epoch_before_the_first_iterator(tmp_path):
    interrupted(tmp_path, STEPS + 2)
    loader = train_loader()
    run(Toy(), tmp_path, resume=True, loader=loader)
    assert {epoch for epoch, _ in loader.sampler.orders} == {1, 2}


def test_saved_teacher_wins_over_a_recomputed_one(tmp_path):
    interrupted(tmp_path, STEPS + 2)
    saved = read_checkpoint(tmp_path / "checkpoints" / "image.ckpt")["state_dict"]["method.teacher_probabilities"]
    toy = Toy()
    begin = toy.begin_phase

    def other_teacher(phase, plain, targets=None):
        begin(phase, plain, targets)
        toy.teacher_probabilities = toy.teacher_probabilities.roll(1, dims=0)

    toy.begin_phase = other_teacher
    run(toy, tmp_path, resume=True)
    assert torch.equal(toy.teacher_probabilities, saved)


def test_resume_without_any_checkpoint_starts_anew(tmp_path):
    one, two = Toy(), Toy()
    run(one, tmp_path / "a", resume=True)
    run(two, tmp_path / "b")
    assert torch.equal(one.adapter, two.adapter)


def test_other_settings_are_named(tmp_path):
    run(Toy(), tmp_path)
    with pytest.raises(SettingsError, match=r"lr was 0.01, is now 0.02; schedule was 'none', is now 'cosine'"):
        run(Toy(), tmp_path, phases=both(lr=0.02, schedule="cosine"), resume=True)
    with pytest.raises(SettingsError, match="seed was 0, is now 1"):
        run(Toy(), tmp_path, resume=True, seed=1)


def test_other_number_of_pictures_or_batch_size_is_named(tmp_path):
    interrupted(tmp_path, STEPS + 2)
    with pytest.raises(SettingsError, match="steps an epoch was 6, is now 3"):
        run(Toy(), tmp_path, resume=True, loader=train_loader(8))


def test_other_frozen_weights_are_noticed(tmp_path):
    interrupted(tmp_path, STEPS + 2)
    with pytest.raises(CheckpointError, match=r"other frozen weights: 'backbone.weight' differs"):
        run(Toy(seed=1), tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
@pytest.mark.parametrize("phase", ["text", "image"])
def test_damaged_checkpoint(tmp_path, damage, phase):
    interrupted(tmp_path, STEPS + 2)
    file = tmp_path / "checkpoints" / f"{phase}.ckpt"
    data = bytearray(file.read_bytes())
    if damage == "flip":  # one bit of a weight
        weight = read_checkpoint(file)["state_dict"]["method.head.weight"]
        data[data.index(weight.numpy().tobytes())] ^= 1
    file.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(CheckpointError, match=rf"{phase}.ckpt is damaged.*Delete .*--resume") as caught:
        run(Toy(), tmp_path, resume=True)
    assert isinstance(caught.value, HybridCascadeError)


def test_checkpoint_of_something_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints" / "text.ckpt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of this package"):
        run(Toy(), tmp_path, resume=True)


def test_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "evil",))

    (tmp_path / "checkpoints").mkdir()
    torch.save({KEY: Evil()}, tmp_path / "checkpoints" / "text.ckpt")
    with pytest.raises(CheckpointError, match="damaged"):
        run(Toy(), tmp_path, resume=True)
    assert not (tmp_path / "evil").exists()


def test_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    import errno

    from hybridcascade.engine import atomic

    interrupted(tmp_path, STEPS + 2)
    before = (tmp_path / "checkpoints" / "image.ckpt").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            run(Toy(), tmp_path, resume=True)
    assert (tmp_path / "checkpoints" / "image.ckpt").read_bytes() == before
    assert [p.name for p in (tmp_path / "checkpoints").glob(".*")] == []
    run(Toy(), tmp_path, resume=True)


@posix
def test_nothing_on_stdout_and_no_bar_without_a_terminal(tmp_path):
    out, err = complete(tmp_path / "r")
    assert out == ""
    assert "━" not in err
    assert "Tip:" not in err
    assert "Warning" not in err
    assert "deprecated" not in err


@posix
def test_bar_on_stderr_in_a_terminal_and_nothing_on_stdout(tmp_path):
    import pty

    terminal, end = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "r")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=end)
    os.close(end)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux ends a terminal whose other side is closed so
            break
        if not part:
            break
        shown += part
    assert process.stdout.read() == b""
    assert process.wait() == 0, shown.decode()
    assert "phase: text" in shown.decode()
    assert "loss:" in shown.decode()


def test_text_phase_of_600_steps_is_quick(tmp_path):
    start_time = time.process_time()
    run(Toy(), tmp_path, phases={"text": Numbers(600), "image": Numbers(0)})
    assert time.process_time() - start_time < 6  # 2 to 3 seconds measured; with an epoch of Lightning a step, 20


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or not torch.distributed.is_available(), reason="needs gloo")
def test_two_processes(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path / "r"), "ddp"]  # Lightning starts it again for rank 1
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    records = RunFolder(tmp_path / "r").read_metrics()
    assert [r.epoch for r in records if r.phase == "image"] == [0, 1, 2, 3]
    assert [r.step for r in records if r.phase == "image"] == [3, 6, 9, 12]  # 12 rows each, 4 a batch
    assert len([r for r in records if r.phase == "text"]) == 40
