"""The replay on the device and the chunks of updates: the batches of the disk's, bounded memory, clear refusals."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from test_replay import add_episode, add_row, assert_same, make

from denoised_mdp.agent.batch import Rows, gather
from denoised_mdp.errors import UserError
from denoised_mdp.runs import device_replay
from denoised_mdp.runs.device_replay import DeviceReplay, rows_needed
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training.learner import Tally


def assert_same_batches(device: DeviceReplay, replay: Replay, seed: int) -> None:
    device.update(replay)
    rngs = np.random.default_rng(seed), np.random.default_rng(seed)
    there, here = device.sample(rngs[0], 3, 5, 4), replay.sample(rngs[1], 3, 5, 4)
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    for k in range(3):
        batch = jax.jit(gather)(there.rows, there.places[k])
        for name in Rows._fields:
            assert_same(np.asarray(getattr(batch, name)), getattr(here, name)[k])
            assert getattr(batch, name).dtype == getattr(here, name).dtype


@pytest.mark.parametrize("include_running", [False, True])
def test_batches_are_those_of_the_disk_bit_for_bit(include_running: bool, tmp_path: Path, monkeypatch) -> None:
    """While episodes of two streams grow, end and are forgotten, and in a process that begins with what there is."""
    monkeypatch.setattr(device_replay, "PIECE", 16)  # some episodes are longer
    replay = make(tmp_path, capacity=60, include_running=include_running)
    device = DeviceReplay(replay.dtype, 60 + 2 * 24)
    for episode in range(0, 16, 2):
        add_episode(replay, episode, 7 + episode, ends=episode % 4 == 0)
        add_episode(replay, episode + 1, 23, stream=1, ends=episode % 4 == 2)
        if replay.can_sample(5):
            assert_same_batches(device, replay, seed=episode)
    assert replay.episodes()[0].id > 2
    fresh = DeviceReplay(replay.dtype, 60 + 2 * 24)
    assert_same_batches(fresh, replay, seed=0)


def test_sequences_of_several_short_episodes_are_those_of_the_disk(tmp_path: Path) -> None:
    replay = make(tmp_path)
    device = DeviceReplay(replay.dtype, 200)
    for episode in range(10):
        add_episode(replay, episode, 3 + episode % 4)
    assert_same_batches(device, replay, seed=0)


def test_writing_compiles_once_whatever_the_length(tmp_path: Path) -> None:
    replay = make(tmp_path)
    device = DeviceReplay(replay.dtype, 5000)
    add_episode(replay, 0, 10)
    device.update(replay)
    written: Any = device_replay._written
    before = written._cache_size()
    for episode, rows in enumerate((11, 300, 600), start=1):
        add_episode(replay, episode, rows)
        device.update(replay)
    assert written._cache_size() == before


def test_more_than_the_device_holds_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^replay.device=true: \d+ rows of 62 bytes take .* GiB, .* replay.capacity"):
        DeviceReplay(make(tmp_path).dtype, 10**12)


def test_a_replay_that_outgrows_its_places_is_one_line(tmp_path: Path) -> None:
    replay = make(tmp_path)
    add_episode(replay, 0, 30)
    with pytest.raises(UserError, match="has outgrown 20 rows"):
        DeviceReplay(replay.dtype, 20).update(replay)


@pytest.mark.parametrize("capacity", [40, 10_000])
@pytest.mark.parametrize("envs", [1, 3])
def test_rows_needed_are_enough_and_no_waste(capacity: int, envs: int, tmp_path: Path) -> None:
    """A run of 600 env steps whose episodes take 30 frames, two to an agent step."""
    replay = make(tmp_path, capacity=capacity)
    most = 0
    for agent_step in range(300 // envs):
        for stream in range(envs):
            t = agent_step % 15
            if t == 0:
                add_episode(replay, 0, 1, stream=stream, ends=False)
            most = max(most, replay.num_steps + 1)
            add_row(replay, 0, t + 1, stream=stream, last=t == 14)
    needed = rows_needed(capacity=capacity, env_steps=600, action_repeat=2, episode_frames=30, envs=envs)
    assert most <= needed <= most + 2 * 16 * envs


def test_two_chunks_of_batches_are_in_memory_at_most() -> None:
    """A device that is behind: each chunk is computed only when somebody waits for it."""
    alive, most = 0, 0

    class Metrics:
        def __init__(self) -> None:
            self.done = False

        def block_until_ready(self) -> None:
            nonlocal alive
            if not self.done:
                self.done, alive = True, alive - 1

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return np.ones(())

        def __float__(self) -> float:
            return 1.0

    tally = Tally({0: 70})
    for _ in range(7):
        alive += 1
        most = max(most, alive)
        loss: Any = Metrics()
        tally.add(10, {0: {"loss": loss}})
    assert tally.made() == {0: (70, {"loss": 1.0})} and most == 2
