"""Disks that fill up, files that change, clocks that jump: a run goes on exactly, or ends in one line."""

import functools
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from test_train import hop, newest, without_speed

from denoised_mdp.analysis import visualize
from denoised_mdp.config import Config
from denoised_mdp.config.compose import compose
from denoised_mdp.envs import custom
from denoised_mdp.errors import UserError, disk_errors
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.logger import Logger
from denoised_mdp.training import loop
from denoised_mdp.training.run import Run

FAILING = """        self.t += 1
        Hop.steps_taken = getattr(Hop, "steps_taken", 0) + 1
        if Hop.steps_taken == 50:
            {}["gripper"]
"""


def settings(folder: Path, *more: str) -> Config:
    return compose([*hop(folder, steps=3), "checkpoint.every=15", "evaluate.episodes=1", *more])


@pytest.fixture(scope="module", autouse=True)
def no_evaluation() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Training, "_evaluate", lambda self: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, no_evaluation) -> Path:
    """The run that nothing disturbs."""
    config = settings(tmp_path_factory.mktemp("whole"))
    loop.train(config)
    return Path(config.run_dir)


def assert_same(ours: Path, theirs: Path) -> None:
    """Every byte of the last checkpoints and of the replays, and the metrics but for speed."""
    pairs = [(run / "checkpoints" / "000000060", run / "replay") for run in (ours, theirs)]
    for a, b in zip(*pairs, strict=True):
        assert {f.name: f.read_bytes() for f in a.iterdir()} == {f.name: f.read_bytes() for f in b.iterdir()}
    assert without_speed(ours) == without_speed(theirs)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can become longer than `limit` bytes: the system refuses the write as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("limit", "file"), [(10, "config.yaml"), (20_000, "state.safetensors"), (20_000, "episode")])
def test_a_disk_that_is_full_costs_nothing_that_was_saved(limit, file, whole, tmp_path, monkeypatch):
    """It fills up before anything is written, at the first checkpoint, or in the second row of an episode."""
    config, collect = settings(tmp_path), loop.Training._collect

    def while_full(training):
        with full_disk(limit):
            collect(training)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="File too large") as caught:
        if file == "episode":
            patch.setattr(loop.Training, "_collect", while_full)
            loop.train(config)
        else:
            with full_disk(limit):
                loop.train(config)
    assert len(str(caught.value).splitlines()) == 1
    folder = Path(config.run_dir)
    assert (folder / "config.yaml").exists() == (file != "config.yaml")
    assert ("state.safetensors" in str(caught.value)) == (file == "state.safetensors")
    assert [path.stat().st_size for path in folder.glob("replay/episode-*")] == [20_000] * (file == "episode")
    loop.train(config)
    assert_same(folder, whole)


def test_a_disk_that_is_full_in_the_middle_of_a_line_of_metrics(whole, tmp_path, monkeypatch):
    config, log = settings(tmp_path), Logger.log
    path = Path(config.run_dir, "metrics.jsonl")
    with monkeypatch.context() as patch:

        def torn(logger, env_step, metrics):
            if "model/loss" not in metrics:
                return log(logger, env_step, metrics)
            with full_disk(path.stat().st_size + 40):
                return log(logger, env_step, metrics)

        patch.setattr(Logger, "log", torn)
        with pytest.raises(UserError, match=r"File too large.*fix that, then run the same command again"):
            loop.train(config)
    assert not path.read_bytes().endswith(b"\n")
    loop.train(config)
    assert_same(Path(config.run_dir), whole)


@pytest.mark.parametrize("name", ["episode.mp4", "episode.gif", "episode.png"])
def test_a_disk_that_is_full_while_a_picture_or_a_video_is_written_is_one_line(name, tmp_path):
    rows = {"observation": np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)}
    write = functools.partial(visualize.write_strip, columns=5) if name.endswith(".png") else visualize.write_video
    with pytest.raises(UserError, match="fix that") as caught, disk_errors("run", "fix that"), full_disk(3000):
        write(tmp_path / name, rows)
    assert len(str(caught.value).splitlines()) == 1


def stopped_at(step: int, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains up to an env step and is killed there."""
    collect = loop.Training._collect

    def end(training):
        if training.env_step == step:
            raise RuntimeError("killed")
        collect(training)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_collect", end)
        with pytest.raises(RuntimeError, match="killed"):
            loop.train(config)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def noise(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(size // 3)
        opened.write(os.urandom(99))


@pytest.mark.parametrize("harm", [cut, noise, Path.unlink], ids=["cut", "noise", "deleted"])
def test_an_episode_that_changed_on_the_disk_is_never_learned_from(
    harm: Callable[[Path], None], whole, tmp_path, monkeypatch, caplog
):
    """The checkpoint before it is used where that has no need of it; otherwise the run ends in one line."""
    config = settings(tmp_path)
    folder = Path(config.run_dir)
    stopped_at(50, config, monkeypatch)
    assert [int(path.name) for path in checkpoint.all_of(folder)] == [30, 45]
    for path in sorted((folder / "replay").glob("*.bin"))[12:]:  # those of env steps 36 to 45 and later
        harm(path)
    loop.train(config)
    assert "the run resumes from env step 30" in caplog.text
    assert_same(folder, whole)

    longer = config.model_copy(update={"train": config.train.model_copy(update={"env_steps": 90})})
    harm(min((folder / "replay").glob("*.bin"), key=lambda path: path.name))
    with pytest.raises(UserError, match=r"episode-00000000.*no earlier checkpoint is sound") as caught:
        loop.train(longer)
    assert len(str(caught.value).splitlines()) == 1


def test_clocks_that_jump_change_no_number(whole, tmp_path, monkeypatch):
    """By hours, back and forth: they are for speeds and times left alone."""
    hours = iter(range(10**6))
    for name in ("time", "monotonic", "perf_counter"):
        now = getattr(time, name)
        monkeypatch.setattr(time, name, lambda now=now: now() + 3600 * ((next(hours) * 7919) % 100 - 50))
    config = settings(tmp_path)
    loop.train(config)
    monkeypatch.undo()
    assert_same(Path(config.run_dir), whole)


def test_a_signal_that_comes_twice_is_one(whole, tmp_path, monkeypatch, capsys):
    """Also while the checkpoint is written for the first."""
    config, collect, save = settings(tmp_path), loop.Training._collect, Run.save

    def stop(training):
        collect(training)
        if training.env_step == 41:
            os.kill(os.getpid(), signal.SIGTERM)

    def again(run, snapshot):
        if run.env_step == 41:
            os.kill(os.getpid(), signal.SIGTERM)
        save(run, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_collect", stop)
        patch.setattr(Run, "save", again)
        with pytest.raises(SystemExit):
            loop.train(config)
    assert newest(Path(config.run_dir)) == 41
    assert capsys.readouterr().out.count("stopped by SIGTERM at env step 41, saved") == 1
    loop.train(config)
    assert_same(Path(config.run_dir), whole)


def test_a_folder_that_takes_no_files_is_one_line(tmp_path, monkeypatch):
    """Before anything is trained; root may write anywhere, so that the system's refusal is played."""
    config = settings(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", config.run_dir)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UserError, match=r"cannot be written: .*Permission denied"):
            loop.train(config)
    assert not Path(config.run_dir).exists()


def test_an_environment_that_fails_in_the_middle_is_one_line_and_the_run_goes_on(whole, tmp_path):
    """Once its file is mended: the failure named the line."""
    config = settings(tmp_path)
    file = tmp_path / "hop.py"
    sound = file.read_text()
    file.write_text(sound.replace("        self.t += 1\n", FAILING))
    with pytest.raises(UserError, match=r"step 2 of an episode: KeyError: 'gripper' \(.*hop.py:\d+\)$") as caught:
        loop.train(config)
    assert len(str(caught.value).splitlines()) == 1
    custom.load.cache_clear()
    del sys.modules["hop"]
    file.write_text(sound)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir.sources, "_same", lambda *_: True)
        loop.train(config)
    assert_same(Path(config.run_dir), whole)


def test_a_run_from_before_checksums_goes_on(whole, tmp_path):
    """And has them from then on."""
    config = settings(tmp_path)
    shutil.copytree(whole, config.run_dir)
    (path,) = checkpoint.all_of(Path(config.run_dir))[-1:]
    (path / checkpoint.CHECKSUMS).unlink()
    progress = checkpoint.load_progress(path)
    expected = progress["replay"].pop("checksums")
    (path / "progress.json").write_text(json.dumps(progress))
    longer = config.model_copy(update={"train": config.train.model_copy(update={"env_steps": 75})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir, "check", lambda config: None)
        loop.train(longer)
    found = checkpoint.load_progress(checkpoint.all_of(Path(config.run_dir))[-1])["replay"]["checksums"]
    assert dict(expected).items() <= dict(found).items() and len(found) > len(expected)
