"""Collecting beside updates: what the actor knows, what the learner sees, whatever the clock; stopping and going on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from environments import RUN
from safetensors.numpy import load_file

from denoised_mdp.agent import Agent
from denoised_mdp.config.compose import compose
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.logger import read_metrics
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training import loop
from denoised_mdp.training.background import BackgroundLearner
from denoised_mdp.training.learner import SequentialLearner
from denoised_mdp.training.speeds import Speeds

OVERRIDES = [
    *RUN,
    *("train.staleness=1", "evaluate.every=60", "evaluate.video_every=1000"),
    *("checkpoint.every=7", "checkpoint.keep=100", "replay.memory_mb=1"),
]


@pytest.fixture(scope="module")
def agent() -> Agent:
    """One that acts as it should, and whose updates, quickly compiled, only tell where they have been."""
    agent = Agent(compose(OVERRIDES), 1)

    def update(state, batches, key):
        state = jax.tree.map(lambda v: v + np.asarray(1e-4, v.dtype) * batches.reward.mean().astype(v.dtype), state)
        state = state._replace(updates=state.updates + len(batches.reward))
        names = ("model/loss", "policy/actor_loss", "policy/critic_loss")
        return state, dict.fromkeys(names, batches.reward.mean())

    agent.train_chunk = jax.jit(update, donate_argnums=0)
    return agent


@pytest.fixture
def start(agent, tmp_path, monkeypatch) -> Callable[..., loop.Training]:
    monkeypatch.setattr(loop, "Agent", lambda *_: agent)

    def start(name: str, *more: str) -> loop.Training:
        config = compose([*OVERRIDES, f"run_dir={tmp_path / name}", *more])
        run_dir.claim(config)
        return loop.Training(config)

    return start


def finish(run: loop.Training) -> Path:
    run.train()
    run.close()
    return run.runs[0].folder


def slow(run: loop.Training, agent: Agent, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Makes updates take their time."""

    def train_chunk(*arguments: Any) -> Any:
        time.sleep(seconds)
        return quick(*arguments)

    quick = agent.train_chunk
    monkeypatch.setattr(agent, "train_chunk", train_chunk)


def assert_same_runs(left: Path, right: Path) -> None:
    paths = [checkpoint.all_of(folder)[-1] for folder in (left, right)]
    assert checkpoint.load_progress(paths[0]) == checkpoint.load_progress(paths[1])
    arrays, others = (load_file(path / "state.safetensors") for path in paths)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    lines = [
        [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in read_metrics(folder)]
        for folder in (left, right)
    ]
    assert lines[0] == lines[1]
    replays = [Replay.open(folder) for folder in (left, right)]
    assert replays[0].episodes() == replays[1].episodes()
    for episode in replays[0].episodes():
        rows, again = (replay.episode(episode.id) for replay in replays)
        for name in rows:
            np.testing.assert_array_equal(rows[name], again[name])


@pytest.fixture(scope="module")
def whole(agent, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Agent", lambda *_: agent)
        config = compose([*OVERRIDES, f"run_dir={tmp_path_factory.mktemp('whole') / 'run'}"])
        run_dir.claim(config)
        return finish(loop.Training(config))


def test_the_run_does_not_depend_on_how_long_updates_take(whole, start, agent, monkeypatch):
    run = start("slow")
    slow(run, agent, monkeypatch, 0.05)
    assert_same_runs(whole, finish(run))
    assert run.runs[0].progress.updates == 2 * (150 // 12 - 60 // 12 + 1)


def test_a_stop_while_a_block_is_under_way_goes_on_exactly(whole, start, agent, monkeypatch):
    run = start("half")
    slow(run, agent, monkeypatch, 0.05)
    collect, in_flight = run._collect, []

    def until_81() -> None:
        collect()
        if run.env_step >= 78 and not in_flight:
            in_flight.append(run.learner.in_flight)
            run.stop_signal = "SIGTERM"

    monkeypatch.setattr(run, "_collect", until_81)
    finish(run)
    assert in_flight == [{0: 2}] and run.env_step == 84 and not run.runs[0].progress.finished
    assert_same_runs(whole, finish(start("half")))


@pytest.mark.parametrize("staleness", [0, 1])
def test_the_policy_that_collects_lacks_so_many_blocks(staleness, start, monkeypatch):
    run = start("run", f"train.staleness={staleness}")
    monkeypatch.setattr(run, "_evaluate", lambda: None)
    start, collect = run._start, run._collect
    first, known, acted_with = [], [0], []

    def weights() -> np.ndarray:
        (acting,) = getattr(run.learner, "_learner", run.learner)._acting  # within the one in the background
        return np.asarray(acting[-1])

    def watch_start() -> None:
        start()
        first.append(weights().copy())
        publish = run.learner.publish_parameters

        def watch_publish() -> None:
            known.append(run.runs[0].progress.updates)
            publish()

        monkeypatch.setattr(run.learner, "publish_parameters", watch_publish)

    def watch_collect() -> None:
        acted_with.append((run.env_step, known[-1]))
        assert (weights() == first[0]).all() == (known[-1] == 0)
        collect()

    monkeypatch.setattr(run, "_start", watch_start)
    monkeypatch.setattr(run, "_collect", watch_collect)
    finish(run)
    for env_step, updates in acted_with:
        blocks = max(0, env_step // 12 - 60 // 12 + 1)
        assert updates == 2 * max(0, blocks - staleness)


def test_a_block_samples_what_had_been_collected_when_it_began(start, agent, monkeypatch):
    """Episodes end and begin while it is under way."""
    run = start("run", "replay.include_running=true")
    monkeypatch.setattr(run, "_evaluate", lambda: None)
    slow(run, agent, monkeypatch, 0.05)
    learn, seen = SequentialLearner.learn, []

    def watch(learner: SequentialLearner, owed: dict[int, int], contents: dict[int, Replay]) -> Any:
        before = contents[0].index()
        result = learn(learner, owed, contents)
        assert contents[0].index() == before
        seen.append((before, run.runs[0].replay.index() != before))
        return result

    monkeypatch.setattr(SequentialLearner, "learn", watch)
    finish(run)
    counts = [sum(length - 1 for _, _, length in (*i["finished"], *i["running"])) for i, _ in seen]
    assert counts == [60 + 12 * n for n in range(8)]
    assert sum(changed for _, changed in seen) >= 6


class Stub:
    """A learner that does what it is told."""

    in_flight: Mapping[int, int] = {}

    def __init__(self, learn: Callable[[], Any] = lambda: None):
        self._learn, self.published = learn, 0

    def learn(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> Any:
        return {0: (owed[0], self._learn())}

    def publish_parameters(self) -> None:
        self.published += 1

    act = snapshot = None


class Contents:
    def snapshot(self) -> Contents:
        return self


def in_background(learn: Callable[[], Any]) -> tuple[BackgroundLearner, dict[int, Any]]:
    return BackgroundLearner(cast(Any, Stub(learn))), {0: Contents()}


def test_what_fails_in_a_block_fails_the_run():
    def fail() -> None:
        raise OSError("the disk is gone")

    learner, contents = in_background(fail)
    assert learner.learn({0: 1}, contents) == {}
    learner.publish_parameters()
    with pytest.raises(OSError, match="the disk is gone"):
        learner.learn({}, {})
    assert not learner.in_flight
    learner.close()


def test_updates_begin_with_the_publication_of_those_before_and_go_on_beside_the_caller():
    acted, learned = threading.Event(), threading.Event()
    learner, contents = in_background(lambda: (learned.set(), acted.wait(60))[1])
    assert learner.learn({0: 3}, contents) == {} and not learner.in_flight and not learned.is_set()
    learner.publish_parameters()
    assert learner.in_flight == {0: 3} and learned.wait(60)
    acted.set()
    assert learner.learn({}, {}) == {0: (3, True)} and not learner.in_flight
    learner.close()


def test_in_turns_each_waits_while_the_other_works():
    now = [0.0]
    speeds = Speeds(lambda: now[0], lambda: 2 * now[0])
    for acting in (1.0, 4.0):
        with speeds.acting():
            now[0] += acting
        with speeds.waiting(), speeds.learning():
            now[0] += 4.0
        waits = {"speed/actor_waits": 400 / (4 + acting), "speed/learner_waits": 100 * acting / (4 + acting)}
        metrics = speeds.metrics(2)
        assert 50 < metrics.pop("speed/memory_mib") < 1_000_000, "this process, in MiB"
        costs = {"speed/cpu_seconds": 2 * (4 + acting)}
        assert metrics == pytest.approx({"speed/updates_per_second": 0.5, **waits, **costs})


def test_side_by_side_nobody_waits_who_works():
    now = [0.0]
    speeds = Speeds(lambda: now[0], lambda: now[0])
    with speeds.learning(), speeds.acting():
        now[0] += 4.0
    metrics = speeds.metrics(2)
    waits = {name: value for name, value in metrics.items() if name.endswith("waits")}
    assert waits == {"speed/actor_waits": 0.0, "speed/learner_waits": 0.0}
    assert metrics["speed/updates_per_second"] == 0.5
