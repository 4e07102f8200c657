"""The real scripts, from a command line to files: a debug run, going on after a kill, looking at it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file

from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.logger import read_metrics
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training import loop

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SHORT = [
    "size=debug",
    "noise=video_background",
    "render.backend=ray",
    "env.task=cartpole_balance",
    "env.action_repeat=10",
    "train.env_steps=2000",
    "evaluate.every=2000",
    "evaluate.video_every=2000",
    "checkpoint.keep=100",
    "replay.factors=true",
    *("policy.critics=2", "replay.recent_share=0.5", "replay.recent_episodes=1"),
    *("model.normalize_reward=true", "model.reward_variance_decay=0.9", "train.random_shift=2"),
]


def start(script: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(script: str, *arguments: str) -> str:
    process = start(script, *arguments)
    output, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    run("train.py", *SHORT, f"run_dir={run_dir}")
    return run_dir


def without_speed(run_dir: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if not name.startswith("speed/")} for line in read_metrics(run_dir)
    ]


def test_a_run_leaves_everything_it_should(finished):
    metrics = {name for line in read_metrics(finished) for name in line}
    assert {"evaluate/return_mean", "train/return", "model/loss", "model/kl_y", "policy/actor_loss"} <= metrics
    latest = checkpoint.latest(finished)
    assert latest is not None and int(latest.name) == 2000
    assert (finished / "config.yaml").exists() and list((finished / "tensorboard").iterdir())
    assert {path.suffix for path in (finished / "videos").iterdir()} == {".png", ".mp4"}
    # Blocks of 5 updates at 1000 (the end of the prefill), 1250, ..., 2000.
    assert checkpoint.load_progress(latest)["updates"] == 25
    replay = Replay.open(finished)
    assert replay.num_episodes == 2
    assert {"factors/position", "factors/video_frame"} <= replay.episode(0).keys()


def test_the_readme_s_lines_of_python_show_what_a_run_has_learned(finished):
    """As they stand there, but for the run's folder."""
    (lines,) = re.findall(r"```python\n(.*?)```", (SCRIPTS.parent / "README.md").read_text(), re.DOTALL)
    assert len(lines.splitlines()) <= 10
    names: dict = {}
    exec(lines.replace("runs/try", str(finished)), names)
    pictures = np.asarray(names["pictures"])
    assert pictures.shape == (101, 64, 64, 3) and pictures.dtype == np.uint8
    assert names["kl"].x.mean() > 0
    signal, s = jax.tree.map(np.asarray, (names["signal"], names["s"]))
    assert (signal.y.state == s.y.state[0]).all() and (signal.x.state == s.x.state).all()
    assert names["config"].run_dir == str(finished)


def test_prefill_is_uniform_and_counted_in_env_steps(finished):
    """1000 env steps are 100 actions; the policy, which starts as good as bang-bang, takes the rest."""
    prefill, later = (Replay.open(finished).episode(i)["action"][1:, 0] for i in (0, 1))
    assert len(prefill) == len(later) == 100
    assert scipy.stats.kstest(prefill, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert np.mean(np.abs(prefill) == 1) == 0 and np.mean(np.abs(later) == 1) > 0.2


def test_updates_come_in_blocks_every_so_many_env_steps_from_the_prefill_s_end_on(finished):
    done = {line["env_step"]: line["train/updates"] for line in read_metrics(finished) if "train/updates" in line}
    assert done == {1000: 5, 1250: 10, 1500: 15, 1750: 20, 2000: 25}


def test_evaluation_comes_first_of_all_and_then_every_so_many_env_steps(finished):
    assert [line["env_step"] for line in read_metrics(finished) if "evaluate/return_mean" in line] == [0, 2000]


@pytest.mark.parametrize("include_running", [False, True])
def test_an_episode_that_goes_on_is_learned_from_only_if_asked(include_running, tmp_path):
    config = compose([*SHORT, f"replay.include_running={include_running}", f"run_dir={tmp_path / 'run'}"])
    training = loop.Training(config)
    for _ in range(50):
        training._collect()
    training.close()
    (run,) = training.runs
    assert run.env_step == 500 and run.replay.num_steps == 51
    assert run.replay.can_sample(config.train.batch_length) == include_running


HOP = """
import gymnasium
import numpy as np


class Hop(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, steps, reward):
        self.steps, self.reward = steps, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.full((64, 64, 3), self.t % 256, np.uint8), self.reward, self.t >= self.steps, False, {}


def make(random, steps, reward=1.0):
    return Hop(steps, reward)
"""
QUICK = ["size=debug", "env=custom", "train.env_steps=60", "train.prefill=30", "train.every=30", "train.updates=1"]


def hop(folder: Path, **arguments: float) -> list[str]:
    (folder / "hop.py").write_text(HOP)
    told = ",".join(f"{name}:{value}" for name, value in arguments.items())
    constructor = f"env.constructor='{folder / 'hop.py'}:make'"
    return [*QUICK, constructor, f"env.arguments={{{told}}}", f"run_dir={folder / 'run'}", "logger.tensorboard=false"]


def test_episodes_shorter_than_a_sequence_are_learned_from_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    loop.train(compose(hop(tmp_path, steps=3)))
    latest = checkpoint.latest(tmp_path / "run")
    assert latest is not None and checkpoint.load_progress(latest)["updates"] == 2
    assert "episodes end after as little as 4 steps, fewer than train.batch_length=8" in caplog.text


def test_a_run_that_could_learn_nothing_ends_with_an_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    config = compose(hop(tmp_path, steps=500))
    for _ in range(2):  # it is not finished: a larger train.env_steps goes on
        with pytest.raises(UserError, match="has learned nothing in 60 env steps, as there are no 8 steps of finished"):
            loop.train(config)
    assert caplog.text.count("updates wait") == 2


def test_a_folder_takes_one_process_at_a_time(tmp_path, monkeypatch, caplog):
    """Also a suspended one; whose it is is said, and the lock goes with the process."""
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    caplog.set_level("INFO", "denoised_mdp")
    config = compose(hop(tmp_path, steps=3))
    code = "import sys, time; from pathlib import Path; from denoised_mdp.runs import run_dir\n"
    code += "with run_dir.locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, config.run_dir]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "locked\n"
            with pytest.raises(UserError, match=f"is in use: process {other.pid} on .* trains there"):
                loop.train(config)
        finally:
            other.kill()
    assert [path.name for path in Path(config.run_dir).iterdir()] == ["lock"]
    loop.train(config)
    assert "goes on from" not in caplog.text
    longer = config.model_copy(update={"train": config.train.model_copy(update={"env_steps": 90})})
    path = Path(config.run_dir, "metrics.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\n<<<<<<< HEAD\n".join([b"", *lines]) + b'[]\n{"env')  # what is only told is not needed
    loop.train(longer)
    assert f"{config.run_dir} goes on from env step 60" in caplog.text
    assert path.read_bytes().startswith(b"".join(lines)) and read_metrics(Path(config.run_dir))[-1]["env_step"] == 90


def test_two_processes_with_locks_of_their_own_do_not_mix(tmp_path, monkeypatch):
    """On a network folder: the kernel gives either the lock, and the later one becomes the owner."""
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    config, collect = compose(hop(tmp_path, steps=3)), loop.Training._collect
    folder = Path(config.run_dir)

    def other_starts(training):
        collect(training)
        if training.env_step == 40:
            with run_dir.locked(folder):
                pass

    with monkeypatch.context() as other:
        other.setattr(loop.Training, "_collect", other_starts)
        with pytest.raises(UserError, match=rf"taken over by process {os.getpid()} on .*; this one ends, unsaved"):
            loop.train(config)
    assert newest(folder) == 0 and not (folder / "checkpoints" / "partial").exists()
    loop.train(config)
    assert newest(folder) == 60
    assert [m["env_step"] for m in read_metrics(folder)] == sorted(m["env_step"] for m in read_metrics(folder))


@pytest.fixture
def hangups_count():
    """SIGHUP as in a terminal, though the tests may themselves run under nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_lost_connection_saves_what_was_done(tmp_path, monkeypatch, capsys, hangups_count):
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    config, collect = compose(hop(tmp_path, steps=3)), loop.Training._collect

    def hang_up(training):
        collect(training)
        if training.env_step == 17:
            os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(loop.Training, "_collect", hang_up)
    with pytest.raises(SystemExit) as caught:
        loop.train(config)
    assert caught.value.code == 0 and newest(Path(config.run_dir)) == 17
    assert "stopped by SIGHUP at env step 17, saved" in capsys.readouterr().out


def test_the_same_command_on_a_finished_run_says_so(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    assert "is finished" in run("train.py", *SHORT, f"run_dir={finished}")
    assert (finished / "metrics.jsonl").read_bytes() == before


def stop(run_dir: Path, when_there: str, with_signal: signal.Signals) -> str:
    """Trains until a file or folder of the run is there, and then sends the signal; what the run printed."""
    process = start("train.py", *SHORT, f"run_dir={run_dir}")
    while not (run_dir / when_there).exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.002)
    process.send_signal(with_signal)
    output, errors = process.communicate(timeout=100)
    assert "Traceback" not in errors
    assert process.returncode == 0
    return output


def newest(run_dir: Path) -> int:
    latest = checkpoint.latest(run_dir)
    return int(latest.name) if latest else -1


def assert_same_agent(run_dir: Path, finished: Path) -> None:
    """Every array of the last checkpoints."""
    arrays, resumed = (load_file(checkpoint.all_of(folder)[-1] / "state.safetensors") for folder in (finished, run_dir))
    assert arrays.keys() == resumed.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)


def assert_same_end(run_dir: Path, finished: Path) -> None:
    """The agents, and every number and row of experience."""
    assert_same_agent(run_dir, finished)
    paths = [checkpoint.all_of(folder)[-1] for folder in (finished, run_dir)]
    assert checkpoint.load_progress(paths[0]) == checkpoint.load_progress(paths[1])
    for episode in Replay.open(finished).episodes():
        ours, theirs = (Replay.open(folder).episode(episode.id) for folder in (finished, run_dir))
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.timeout(600)
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    """At random, while a checkpoint is written, and while the replay deletes an episode; no metric tells of it."""
    command = ["bash", str(SCRIPTS / "torture.sh"), "--kills", "3", "--variants", "small", "--out", str(tmp_path)]
    settings = ["train.env_steps=3000", "checkpoint.every=500", "replay.capacity=150"]
    done = subprocess.run(
        [*command, *settings], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "small: kill 3 of 3" in done.stdout and "every run ended with the bytes" in done.stdout


def test_a_run_that_is_asked_to_stop_goes_on_exactly(finished, tmp_path):
    """Metrics may differ: a signal may fall between two chunks of updates, which makes one line two."""
    run_dir = tmp_path / "run"
    output = stop(run_dir, f"{checkpoint.FOLDER}/000001500", signal.SIGTERM)
    assert "stopped by SIGTERM" in output and 1500 <= newest(run_dir) < 2000
    run("train.py", *SHORT, f"run_dir={run_dir}")
    assert_same_end(run_dir, finished)


@pytest.mark.parametrize(("updates", "on_device"), [(8, True), (25, False)])
def test_a_stop_between_updates_goes_on_with_the_rest_of_them(updates, on_device, finished, tmp_path, monkeypatch):
    """In the middle of a block, and after the very last update, before the last evaluation.

    With the replay on the device it is the same run.
    """
    config = compose([*SHORT, "replay.memory_mb=1", f"replay.device={on_device}", f"run_dir={tmp_path / 'run'}"])
    stopped = loop.Training(config)
    run_dir.claim(config)
    train_chunk = stopped.agent.train_chunk

    def stop_there(*arguments):
        state, metrics = train_chunk(*arguments)
        if int(state.updates) == updates:
            stopped.stop_signal = "SIGTERM"
        return state, metrics

    monkeypatch.setattr(stopped.agent, "train_chunk", stop_there)
    stopped.train()
    stopped.close()
    path = checkpoint.latest(tmp_path / "run")
    assert path is not None and checkpoint.load_progress(path)["updates"] == updates
    assert not checkpoint.load_progress(path)["finished"]

    loop.train(config)
    assert_same_agent(tmp_path / "run", finished)
    evaluations = [
        [line for line in without_speed(folder) if "evaluate/return_mean" in line]
        for folder in (finished, tmp_path / "run")
    ]
    assert evaluations[0] == evaluations[1]


def test_evaluating_and_looking_need_the_checkpoint_alone(finished, tmp_path):
    run_dir = tmp_path / "copied"
    latest = checkpoint.latest(finished)
    assert latest is not None
    (run_dir / checkpoint.FOLDER).mkdir(parents=True)
    (run_dir / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    (run_dir / checkpoint.FOLDER / latest.name).symlink_to(latest)

    output = run("evaluate.py", f"run_dir={run_dir}", "episodes=2")
    report = json.loads((run_dir / "evaluation-000002000-seed1841.json").read_text())
    assert report["env_step"] == 2000 and len(report["returns"]) == 2 and f"{report['return_mean']:.1f}" in output
    assert report["return_low"] <= report["return_mean"] <= report["return_high"]
    what_if = ["episodes=2", "swap=y", "walk=x", "imagine=[zero,reversed]"]
    run("visualize.py", f"run_dir={run_dir}", "columns=4", *what_if)
    pictures = {path.name for path in (run_dir / "visualize").iterdir() if path.suffix == ".png"}
    ours = {f"000002000-seed1841{what}.png" for what in ("", "-swap_y", "-walk_x", "-imagine")}
    assert pictures == ours | {f"000002000-seed1842{what}.png" for what in ("", "-walk_x", "-imagine")}


def test_the_factorization_of_several_runs_is_measured_on_the_same_episodes(finished, tmp_path):
    data, short = tmp_path / "episodes.npz", ["clips=1", "physics=2", "policies=[uniform,self]"]
    arguments = [f"run_dir={finished}", f"data={data}"]
    output = run("factorization.py", *arguments, *short, f"out={tmp_path / 'one'}")
    for words in ("signal kept in x: ", "noise leaked into x: ", "signal stranded outside x: "):
        assert words in output
    before = data.stat().st_mtime_ns
    run("factorization.py", *arguments, f"out={tmp_path / 'two'}")
    assert data.stat().st_mtime_ns == before
    one, two = ((tmp_path / name / "factorization.json").read_text() for name in ("one", "two"))
    assert one == two
    process = start("factorization.py", *arguments, "noise.clip_frames=7")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2 and "noise.clip_frames: 1000 -> 7" in errors and len(errors.splitlines()) == 1


def test_a_run_can_learn_from_another_run_s_replay_and_be_analysed_on_the_way(finished, tmp_path):
    run_dir = tmp_path / "run"
    analysis = ["analysis.every=1000", "analysis.clips=1"]
    arguments = [*SHORT, *analysis, "model=x", f"replay.source={finished}", f"run_dir={run_dir}"]
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (finished / "replay").iterdir())
    run("train.py", *arguments)
    latest = checkpoint.latest(run_dir)
    assert latest is not None and checkpoint.load_progress(latest)["updates"] == 25
    assert not (run_dir / "replay").exists()
    probed = [line["env_step"] for line in read_metrics(run_dir) if "analysis/signal_in_x" in line]
    assert probed == [0, 1000, 2000]
    (last,) = (line for line in read_metrics(run_dir) if line["env_step"] == 2000 and "analysis/noise_in_x" in line)
    assert 0 <= last["analysis/noise_in_x"] <= 1 and last["analysis/swapped"] == 0
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (finished / "replay").iterdir()) == before


def test_another_world_s_replay_is_refused(finished, tmp_path):
    arguments = [*SHORT, "noise.camera_jitter=true", f"replay.source={finished}", f"run_dir={tmp_path / 'run'}"]
    process = start("train.py", *arguments)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert errors.startswith("error: replay.source=") and "noise.camera_jitter: False -> True" in errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env.task=cheetah_rnu", "cheetah_run"),
        ("model.bta=1", "model.beta"),
        ("model.beta=3", "less than or equal to 1"),
        ("seed=-1", "seed=-1"),
        ("noise=vidoe", "video_background"),
        ("noise.source=/nowhere", "/nowhere"),
        ("replay.source=/nowhere", "/nowhere"),
        ("render.backend=vulkan", "egl"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(override, words, tmp_path):
    process = start("train.py", "size=debug", override, f"run_dir={tmp_path / 'run'}")
    _, errors = process.communicate(timeout=100)
    assert process.returncode != 0
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: ") and words in line
    assert not any(tmp_path.iterdir())
