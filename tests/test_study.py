"""Studies: each run by the ordinary command, skipped when finished, resumed after a stop, reported when it failed."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from denoised_mdp.commands import study
from denoised_mdp.errors import UserError
from denoised_mdp.runs.study import Job, jobs, load, progress
from denoised_mdp.training import runners

STUDY = """
settings: [size=debug, train.env_steps=2000]
seeds: [3, 4]
choices:
  world: {video: [noise=video_background], clean: [noise=none]}
  model: {xy: [model=xy], x: [model=x]}
grids:
  - {world: [video], model: [xy, x]}
  - {world: [clean, video], model: [xy]}
"""

FAKE = """
import json, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
begun = int(max((p.name for p in run.glob("checkpoints/*")), default="0"))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
def save(step):
    folder = run / "checkpoints" / f"{step:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.json").write_text(json.dumps({"env_step": step, "finished": step == 2000}))
    empty = b"{}".ljust(8)  # a file of safetensors: the length of its header, and that
    (folder / "state.safetensors").write_bytes(len(empty).to_bytes(8, "little") + empty)
if "clean" in run.name and begun == 0:
    save(500)
    sys.exit("the disk is full")
for step in range(begun + 20, 2001, 20):
    time.sleep(float(sys.argv[2]))
    save(step)
    if stopped:
        break
"""


def some_jobs(tmp_path: Path) -> list[Job]:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return jobs(load(file), tmp_path / "out", ["model.alpha=3"])


def test_a_study_is_the_product_of_its_choices_each_run_once(tmp_path):
    found = some_jobs(tmp_path)
    names = ["video-xy", "video-x", "clean-xy"]
    assert [job.name for job in found] == [f"{name}-seed{seed}" for name in names for seed in (3, 4)]
    config = found[-1].config
    assert (config.seed, config.noise.video_background, config.model.alpha) == (4, False, 3.0)
    assert config.run_dir == str(tmp_path / "out" / "clean-xy-seed4")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("world: [video]", "worlds: [video]", "there is no axis worlds; did you mean world"),
        ("[clean, video]", "[clear, video]", "world has no choice clear; did you mean clean"),
        ("model=xy]", "model=xyy]", "video-xy-seed3: model=xyy"),
        ("seeds: [3, 4]", "seeds: []", "seeds"),
        ("seeds:", "sedes:", "sedes: there is no such setting; did you mean seeds"),
        ("grids:", "grids: [", "cannot be read"),
    ],
)
def test_a_wrong_study_is_one_line(old, new, words, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace(old, new))
    with pytest.raises(UserError) as caught:
        jobs(load(tmp_path / "study.yaml"), tmp_path / "out")
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.fixture
def fake_training(tmp_path, monkeypatch):
    """Training of a moment; its first item is the seconds of a checkpoint. Runs without noise fail at first."""
    (tmp_path / "fake.py").write_text(FAKE)
    seconds = [0.0]
    fake = [sys.executable, str(tmp_path / "fake.py")]
    monkeypatch.setattr(runners, "train_command", lambda job: [*fake, job.config.run_dir, str(seconds[0])])
    return seconds


def saved_at(job: Job) -> int:
    return os.stat(Path(job.config.run_dir, "checkpoints")).st_mtime_ns


def test_a_failed_run_does_not_stop_the_others_and_is_resumed(tmp_path, fake_training, capsys):
    todo = some_jobs(tmp_path)
    runner = runners.LocalRunner(todo, at_once=2)
    runner.run()
    assert list(runner.states.values()) == ["finished"] * 4 + ["failed"] * 2
    with pytest.raises(SystemExit) as caught:
        study._report(runner)
    assert caught.value.code == 1
    told = capsys.readouterr().out
    assert "clean-xy-seed3 failed: the disk is full" in told and "2 of 6 runs are unfinished; the same command" in told

    times = [saved_at(job) for job in todo[:4]]
    again = runners.LocalRunner(todo, at_once=2)
    assert list(again.states.values()) == ["finished"] * 4 + ["waiting"] * 2
    again.run()
    assert set(again.states.values()) == {"finished"}
    assert times == [saved_at(job) for job in todo[:4]]
    study._report(again)
    assert "all 6 runs are finished" in capsys.readouterr().out

    (Path(todo[1].config.run_dir) / "checkpoints" / "000002000" / "state.safetensors").write_bytes(b"damaged")
    assert runners.LocalRunner(todo, at_once=2).states[todo[1].name] == "waiting", "training sets it aside and goes on"


def test_a_stop_lets_each_run_save(tmp_path, fake_training):
    fake_training[0] = 0.1
    todo = some_jobs(tmp_path)[:4]
    runner = runners.LocalRunner(todo, at_once=2)
    thread = threading.Thread(target=runner.run)
    thread.start()
    while list(runner.states.values()).count("running") < 2 or not all(progress(job)[0] for job in todo[:2]):
        time.sleep(0.01)
    assert "4 runs" in str(study.table(runner, time.monotonic(), 0).caption)
    runner.stop()
    thread.join(timeout=30)
    assert list(runner.states.values()) == ["stopped", "stopped", "waiting", "waiting"]
    assert all(0 < progress(job)[0] < 2000 for job in todo[:2])


def test_a_damaged_progress_is_passed_over(tmp_path):
    (job, *_) = some_jobs(tmp_path)
    for step, text in ((500, json.dumps({"env_step": 500, "finished": False})), (1000, "{")):
        folder = Path(job.config.run_dir, "checkpoints", f"{step:09d}")
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text(text)
    assert progress(job) == (500, False)


def test_the_command_trains_and_then_has_nothing_to_do(tmp_path):
    world = "env.task=cartpole_balance, env.action_repeat=10, render.backend=ray"
    settings = f"[size=debug, {world}, train.env_steps=1100, evaluate.every=1100]"
    (tmp_path / "one.yaml").write_text(
        f"settings: {settings}\nseeds: [1]\nchoices: {{model: {{x: [model=x]}}}}\ngrids: [{{model: [x]}}]\n"
    )
    script = Path(__file__).resolve().parent.parent / "scripts" / "study.py"
    command = [sys.executable, str(script), str(tmp_path / "one.yaml"), "--out", str(tmp_path / "runs"), "--jobs", "1"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all 1 runs are finished" in done.stdout
    assert not subprocess.run([*command, "--print"], capture_output=True, text=True, check=True).stdout.strip()


class FakeExecutor:
    """Runs each job at once in this process, as submitit does in another one."""

    def __init__(self, folder, cluster, **settings):
        self.folder, self.cluster = Path(folder), cluster
        self.settings = settings

    def update_parameters(self, **settings):
        self.settings |= settings

    def submit(self, function, *arguments):
        paths = SimpleNamespace(stdout=self.folder / "out", stderr=self.folder / "err")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            function(*arguments)
        except UserError as error:
            paths.stderr.write_text(f"UserError: {error}\n")
        return SimpleNamespace(done=lambda: True, state="COMPLETED", paths=paths)


def test_runs_are_jobs_of_a_cluster_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runners, "LOOK_EVERY", 0.01)
    # Importing submitit itself would close the handlers of logging, pytest's too.
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=FakeExecutor))
    file = tmp_path / "study.yaml"
    tiny = "size=debug, env=sunlight, env.action_repeat=1, env.episode_frames=15, train.env_steps=60, train.prefill=40"
    tiny += ", train.every=20, train.batch_length=4, evaluate.every=60, evaluate.episodes=1, logger.tensorboard=false"
    file.write_text(
        f"settings: [{tiny}]"
        + """
seeds: [3]
choices: {model: {x: [model=x], bad: [model=x, 'replay.source=nowhere']}}
grids: [{model: [x, bad]}]
"""
    )
    todo = jobs(load(file), tmp_path / "out")
    runner = runners.ClusterRunner(todo, study.TrainingJob(), cluster="slurm", settings={"timeout_min": 5})
    settings = cast(Any, runner._executor).settings
    assert settings["timeout_min"] == 5 and settings["slurm_max_num_timeout"] == 1000
    assert list(runner.states.values()) == ["waiting", "waiting"]
    runner.run()
    assert list(runner.states.values()) == ["finished", "failed"]
    with pytest.raises(SystemExit):
        study._report(runner)
    told = capsys.readouterr().out
    assert "bad-seed3 failed: " in told and "nowhere" in told and "1 of 2 runs are unfinished; jobs of SLURM" in told
    assert runners.ClusterRunner(todo[:1], study.TrainingJob(), cluster="slurm", settings={}).states == {
        "x-seed3": "finished"
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cluster", "local", "--job", "partition"], "a setting of the jobs is name=value"),
        (["--cluster", "local", "--jobs", "2"], "--jobs is for this machine"),
        (["--job", "timeout_min=5"], "--job describes the jobs of --cluster"),
    ],
)
def test_a_wrong_setting_of_jobs_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.setattr("sys.argv", ["study.py", str(tmp_path / "study.yaml"), "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as caught:
        study.command()
    assert caught.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["pbs"], ["local", "--job", "slurm_partion=gpu"], ["local", "--job", "timeout_min=abc"]]
)
def test_what_submitit_refuses_is_one_line(arguments, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    command = [
        sys.executable,
        "-m",
        "denoised_mdp",
        "study",
        str(tmp_path / "study.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, "--cluster", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: --cluster {arguments[0]}: ")
    assert "Traceback" not in done.stderr
