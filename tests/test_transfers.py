"""The loop of updates is the device's: all that the host sends is batches, and it reads nothing before a block's end.

jax's transfer guard sees what is sent. What is read it does not see on a CPU, where reading costs nothing: so the loop
is also traced, with abstract values in place of all that an agent has learned, which cannot be read.
"""

from typing import Any

import jax
import numpy as np
import pytest

from denoised_mdp.agent import Agent
from denoised_mdp.config.compose import compose
from denoised_mdp.training import learner, loop
from denoised_mdp.training.learner import AgentSnapshot, Pace, Seed, SequentialLearner

# Two blocks, at 40 and 50, each of three updates in chunks of one, since memory holds no more.
TINY = [
    *("size=debug", "env=sunlight", "env.action_repeat=1", "env.episode_frames=15", "model=x"),
    *("train.env_steps=50", "train.prefill=40", "train.every=10", "train.updates=3"),
    *("train.batch_length=8", "train.batch_size=4", "replay.memory_mb=1", "logger.tensorboard=false"),
]


@pytest.mark.parametrize("on_device", [False, True])
def test_updates_are_sent_their_batches_and_nothing_else(on_device, tmp_path, monkeypatch):
    calls = []

    def watched(*arguments: Any) -> Agent:
        agent = Agent(*arguments)
        train_chunk = agent.train_chunk

        def guarded(state: Any, batches: Any, key: jax.Array) -> Any:
            calls.append(batches)
            with jax.transfer_guard("disallow"):  # but for what is sent explicitly
                return train_chunk(state, jax.device_put(batches), key)

        monkeypatch.setattr(agent, "train_chunk", guarded)
        return agent

    monkeypatch.setattr(loop, "Agent", watched)
    monkeypatch.setattr(loop, "check_metrics", lambda *_: None)  # which traces an update
    monkeypatch.setattr(loop.Training, "_evaluate", lambda self: None)
    loop.train(compose([*TINY, f"replay.device={on_device}", f"run_dir={tmp_path / 'run'}"]))
    assert len(calls) == 6


@pytest.mark.parametrize("on_device", [False, True])
def test_a_block_reads_nothing_that_is_learned(on_device, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Run, "log_episodes", lambda self: None)
    training = loop.Training(compose([*TINY, f"replay.device={on_device}", f"run_dir={tmp_path / 'run'}"]))
    training._start()
    while not (owed := training.runs[0].updates_owed()):
        training._collect()
    agent, run = training.agent, training.runs[0]
    monkeypatch.setattr(learner.Tally, "made", lambda self: self._calls[0])  # before metrics become numbers

    def block(state: Any) -> Any:
        pace = Pace(training.updates_per_call, lambda: False, training.speeds)
        traced = SequentialLearner(agent, [Seed(AgentSnapshot(state, agent.initial(1)), run.keys, run.sample)], pace)
        made = traced.learn({0: owed}, {0: run.replay})
        return traced.snapshot(0).state, made

    state, made = jax.eval_shape(block, agent.shapes())
    training.close()
    assert jax.tree.structure(state) == jax.tree.structure(agent.shapes())
    assert len(made) == owed == 3 and {metrics["model/loss"].shape for _, metrics in made} == {()}


def test_the_guard_and_the_tracer_see_mistakes():
    double = jax.jit(lambda v: 2 * v)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        double(np.ones(3, np.float32))
    for reading in (float, bool, np.asarray):
        with pytest.raises(jax.errors.JAXTypeError):
            jax.eval_shape(reading, 1.0)
