"""Environments in worker processes: the same episodes, failures that are told, ends that leave nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from environments import DOT, ENV, NOISE, RENDER, RUN, SHAKING, same
from safetensors.numpy import load_file

from denoised_mdp import cli
from denoised_mdp.agent import Agent
from denoised_mdp.config.compose import compose
from denoised_mdp.envs import AnyEnv, make_all, reset_all, step_all
from denoised_mdp.envs.workers import WorkerEnv
from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.evaluation import evaluation_envs, rollout
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training import loop


def make(workers: int, seeds: list[int], env: dict[str, Any] = DOT, noise: dict[str, Any] = SHAKING) -> list[AnyEnv]:
    return make_all(env=env, render=RENDER, noise=noise, seeds=seeds, split="train", workers=workers)


def processes(envs: list[AnyEnv]) -> list[Any]:
    return [env._worker._process for env in envs if isinstance(env, WorkerEnv)]


@pytest.mark.parametrize(
    ("env", "noise", "seeds", "workers"),
    [(DOT | {"constructor": "worker_world:make_without_jax"}, SHAKING, [3, 4, 5], 2), (ENV, NOISE, [3], 1)],
    ids=["dot", "dmc"],
)
def test_the_same_seeds_are_the_same_episodes(env, noise, seeds, workers, monkeypatch):
    far = make(workers, seeds, env, noise)
    with monkeypatch.context() as without_jax:
        without_jax.delitem(sys.modules, "jax")
        near = make(0, seeds, env, noise)
    assert len({process.pid for process in processes(far)}) == workers
    for a, b in zip(far, near, strict=True):
        attributes = [{name: value for name, value in vars(env).items() if name[0] != "_"} for env in (a, b)]
        np.testing.assert_equal(attributes[0], attributes[1])
        a.seed(7, noise=8)
        b.seed(7, noise=8)
    everyone = range(len(seeds))
    steps = [reset_all(envs, everyone) for envs in (far, near)]
    rng = np.random.default_rng(0)
    for _ in range(15):
        assert all(same(steps[0][i], steps[1][i]) for i in everyone)
        over = [i for i in everyone if steps[1][i].is_last]
        actions = {i: rng.uniform(-1, 1, far[0].action_size) for i in everyone if i not in over}
        steps = [reset_all(envs, over) | step_all(envs, actions) for envs in (far, near)]
    states = [env.state() for env in far]
    assert states == [env.state() for env in near]
    np.testing.assert_array_equal(far[0].robot_mask(), near[0].robot_mask())  # type: ignore[arg-type]
    here = reset_all(near, everyone)  # onward from where the state was taken
    assert not same(here[0], steps[0][0])
    for i in everyone:
        assert same(far[i].restore(states[i]), near[i].restore(states[i]))
    for env in (*far, *near):
        env.close()
    assert not any(process.is_alive() for process in processes(far))


RAISED = "env.constructor=worker_world:make:"  # an error of the environment's own is one line, with its place


@pytest.mark.parametrize(
    ("ending", "words", "told"),
    [
        ("make", "train environment of seed 3: ZeroDivisionError: made of nothing", True),
        ("raise", f"{RAISED} step 3 of an episode: ZeroDivisionError: division by zero", False),
        ("exit", "train environment of seed 3 and 4: its worker process ended with exit code 3", False),
        ("kill", "train environment of seed 3 and 4: its worker process was killed by SIGKILL", False),
    ],
)
def test_a_worker_that_dies_is_one_error(ending, words, told, capsys):
    """Two environments share the worker, and the second takes its third step first."""
    envs: list[AnyEnv] = []
    with pytest.raises(UserError) as caught:
        envs = make(1, [3, 4], DOT | {"arguments": {"ending": ending}})
        reset_all(envs, [0, 1])
        step_all(envs, {1: [0.0]})
        for _ in range(2):
            step_all(envs, {0: [0.0], 1: [0.0]})
    assert str(caught.value).startswith(words) and (ending == "raise" or str(caught.value) == words)
    cli._report(caught.value)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"error: {caught.value}"
    assert ["Traceback" in "".join(rest), "worker_world.py" in "".join(rest)] == [told, told]
    assert not any(process.is_alive() for process in processes(envs))


def test_what_a_user_gets_wrong_is_told_as_ever():
    with pytest.raises(UserError, match=r"^env.constructor=worker_world:_kill does not take random"):
        make(1, [0], DOT | {"constructor": "worker_world:_kill"})
    with pytest.raises(UserError, match=r"^env.camera=9: cheetah_run has the cameras") as caught:
        make(1, [0], ENV | {"camera": 9})
    assert not hasattr(caught.value, "__notes__")


_PARENT = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from environments import DOT, RENDER, SHAKING
from denoised_mdp.envs import make_all, reset_all, step_all
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit that it is ignored
    envs = make_all(env=DOT, render=RENDER, noise=SHAKING, seeds=[0, 1], split="train", workers=2)
    reset_all(envs, [0, 1])
    try:
        print(*(env._worker._process.pid for env in envs), flush=True)
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        while sys.argv[1] == "interrupted":
            step_all(envs, {{0: [0.0], 1: [0.0]}})
            reset_all(envs, [0, 1])
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("how", "code"), [("killed", -signal.SIGKILL), ("ending", 0), ("interrupted", 130)])
def test_workers_end_with_their_parent_and_quietly(how, code, tmp_path):
    """Ctrl-C goes to all of them, as from a terminal."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT.format(tests=str(Path(__file__).parent)))
    command, pipe = [sys.executable, str(script), how], subprocess.PIPE
    with subprocess.Popen(command, text=True, start_new_session=True, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        try:
            workers = [int(pid) for pid in process.stdout.readline().split()]
            if how == "interrupted":
                os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=200)
        finally:
            process.kill()
    assert (process.returncode, errors, len(workers)) == (code, "", 2)
    while any(alive(pid) for pid in workers):  # else the test's time limit ends it
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return re.split(r"\) ", Path(f"/proc/{pid}/stat").read_text())[-1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_evaluation_is_the_same_in_workers():
    """An agent that does nothing; the episodes end at different times."""
    still: Any = SimpleNamespace(
        action_size=1,
        acting=lambda state: [],
        initial=lambda environments: None,
        act=lambda *given, explore: SimpleNamespace(action=np.zeros((len(given[2]), 1), np.float32)),
    )
    nothing: Any = None
    found = []
    for workers in (0, 2):
        overrides = ["size=debug", "env=custom", "env.constructor=worker_world:make", "evaluate.episodes=3"]
        envs = evaluation_envs(compose([*overrides, f"evaluate.workers={workers}"]))
        assert len({process.pid for process in processes(envs)}) == workers
        found.append(rollout(still, nothing, envs, jax.random.key(0), seed=5, record=3))
        for env in envs:
            env.close()
    assert len({len(episode.reward) for episode in found[0]}) > 1
    for here, there in zip(*found, strict=True):
        np.testing.assert_array_equal(here.observation, there.observation)
        np.testing.assert_array_equal(here.reward, there.reward)


def test_a_run_in_several_environments_goes_on_exactly_also_in_workers(tmp_path, monkeypatch):
    """Three environments whose episodes end at different times; stopped with some of them going on.

    The policy acts but nothing is learned, which would take long to compile.
    """
    overrides = [*RUN, "replay.factors=true"]
    agent = Agent(compose(overrides), 1)
    losses = dict.fromkeys(("model/loss", "policy/actor_loss", "policy/critic_loss"), 0.0)

    def count(state, batches, key):
        return state._replace(updates=state.updates + len(batches.reward)), losses

    monkeypatch.setattr(agent, "train_chunk", count)
    monkeypatch.setattr(loop, "Agent", lambda *_: agent)  # compiled once
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)

    def start(name: str, *more: str) -> loop.Training:
        config = compose([*overrides, f"run_dir={tmp_path / name}", *more])
        run_dir.claim(config)
        return loop.Training(config)

    def finish(training: loop.Training) -> None:
        training.train()
        training.close()

    whole, half = start("whole"), start("half")
    collect = half._collect

    def until_80() -> None:
        collect()
        if half.env_step >= 80:
            half.stop_signal = "SIGTERM"

    monkeypatch.setattr(half, "_collect", until_80)
    finish(whole)
    finish(half)
    (run,) = half.runs
    assert run.env_step == 81 and not run.progress.finished
    assert [step is not None and step.is_last for step in run.steps].count(False) > 0
    rest = start("half", "train.workers=2")
    assert all(isinstance(env, WorkerEnv) for env in rest.envs)
    finish(rest)

    paths = [checkpoint.all_of(tmp_path / name)[-1] for name in ("whole", "half")]
    assert checkpoint.load_progress(paths[0]) == checkpoint.load_progress(paths[1])
    arrays, resumed = (load_file(path / "state.safetensors") for path in paths)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)
    replays = [Replay.open(tmp_path / name) for name in ("whole", "half")]
    assert replays[0].episodes() == replays[1].episodes()
    for episode in replays[0].episodes():
        rows, again = (replay.episode(episode.id) for replay in replays)
        for name in rows:
            np.testing.assert_array_equal(rows[name], again[name])
        # Each episode is of one environment, and each action where it belongs.
        np.testing.assert_allclose(np.diff(rows["factors/place"]), 0.1 * rows["action"][1:, 0], atol=1e-6)
        assert rows["is_first"].sum() == 1 and rows["is_first"][0]

    # Environment steps are those of all together.
    episodes = replays[0].episodes()
    assert {episode.stream for episode in episodes} == {0, 1, 2}
    assert sum(episode.length - 1 for episode in episodes) == whole.env_step == 150
    assert whole.runs[0].progress.updates == 2 * (150 // 12 - 60 // 12 + 1)
    starts = {tuple(replays[0].episode(episode.id)["factors/place"][:1]) for episode in episodes}
    assert len(starts) == len(episodes)
