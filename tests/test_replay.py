"""The replay: sequences are consecutive rows, positions count alike, a killed run goes on exactly, others can read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from denoised_mdp.runs.replay import Recency, Replay, ReplayError

SHAPE = (4, 4, 3)
FACTORS = {"clip": (np.int64, ()), "shift": (np.float32, (2,))}


class FakeStep(NamedTuple):
    observation: np.ndarray
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool
    info: dict[str, Any]


def make(directory: Path, **changes: Any) -> Replay:
    settings = {"observation_shape": SHAPE, "action_size": 2, "capacity": 10_000} | changes
    return Replay(directory, **settings)


def step(episode: int, t: int, *, last: bool = False, terminal: bool = False) -> FakeStep:
    """A step that says where it is from: its reward is 1000 * episode + t, and so is all that goes with it."""
    frame = np.zeros(SHAPE, np.uint8)
    frame[0, 0] = episode, t // 256, t % 256
    where = 1000 * episode + t
    factors = {"clip": where, "shift": np.array([episode, t], np.float32)}
    return FakeStep(frame, float(where), t == 0, last, terminal, {"factors": factors})


def add_row(replay: Replay, episode: int, t: int, *, stream: int = 0, last: bool = False) -> None:
    action = np.array([episode, t], np.float32)
    replay.add(step(episode, t, last=last, terminal=last and episode % 2 == 1), action, stream)


def add_episode(replay: Replay, episode: int, rows: int, *, stream: int = 0, ends: bool = True) -> None:
    for t in range(rows):
        add_row(replay, episode, t, stream=stream, last=ends and t == rows - 1)


def origins(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(episode, t) of frames [..., H, W, 3]."""
    numbers = frames[..., 0, 0, :].astype(int)
    return numbers[..., 0], numbers[..., 1] * 256 + numbers[..., 2]


def contents(replay: Replay) -> dict[int, dict[str, np.ndarray]]:
    return {episode.id: replay.episode(episode.id) for episode in replay.episodes()}


def assert_same(left: Any, right: Any) -> None:
    np.testing.assert_equal(left, right)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    length=st.integers(1, 12),
    include_running=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_sequences_are_consecutive_rows_of_one_episode_or_of_short_ones_together(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], length: int, include_running: bool, seed: int
) -> None:
    replay = make(tmp_path_factory.mktemp("replay"), include_running=include_running, factors=FACTORS)
    for episode, n in enumerate(rows):
        add_episode(replay, episode, n, ends=episode < len(rows) - 1)
    short = [i for i, n in enumerate(rows[:-1]) if n < length]
    fits = any(n >= length for n in (rows if include_running else rows[:-1])) or sum(rows[i] for i in short) >= length
    assert replay.can_sample(length) == fits
    if not fits:
        with pytest.raises(ReplayError, match=f"no sequence of {length} steps"):
            replay.sample(np.random.default_rng(seed), 2, length, 3)
        return
    batch = replay.sample(np.random.default_rng(seed), 2, length, 3, with_factors=True)
    episode, t = origins(batch.observation)
    for k, b in np.ndindex(2, 3):
        for i, j, before, after in zip(episode[k, :-1, b], episode[k, 1:, b], t[k, :-1, b], t[k, 1:, b], strict=True):
            follows = i in short and before == rows[i] - 1 and after == 0 and j == short[short.index(i) + 1]
            assert (i == j and after == before + 1) or (length > 1 and follows)
    assert (include_running or episode.max() < len(rows) - 1) and (t < np.array(rows)[episode]).all()
    # Every other field comes from the same row, and the reset row has neither action nor reward.
    first = t == 0
    assert_same(batch.is_first, first)
    assert_same(batch.reward, np.where(first, 0, 1000 * episode + t).astype(np.float32))
    assert_same(batch.action, np.where(first[..., None], 0, np.stack([episode, t], -1)).astype(np.float32))
    assert_same(batch.factors["clip"], 1000 * episode + t)
    assert_same(batch.factors["shift"], np.stack([episode, t], -1).astype(np.float32))
    ended = (t == np.array(rows)[episode] - 1) & (episode < len(rows) - 1)
    assert_same(batch.is_terminal, ended & (episode % 2 == 1))


def test_batches_are_time_major_and_contiguous(tmp_path: Path) -> None:
    replay = make(tmp_path, factors=FACTORS)
    add_episode(replay, 0, 20)
    batch = replay.sample(np.random.default_rng(0), 2, 5, 3)
    shapes = [array.shape for array in batch[:5]]
    assert shapes == [(2, 5, 3, *SHAPE), (2, 5, 3, 2), (2, 5, 3), (2, 5, 3), (2, 5, 3)]
    assert [str(array.dtype) for array in batch[:5]] == ["uint8", "float32", "float32", "bool", "bool"]
    assert all(array.flags.c_contiguous for array in batch[:5])
    assert batch.factors == {}


def test_sequences_longer_than_one_read_can_fill(tmp_path: Path) -> None:
    replay = make(tmp_path)
    add_episode(replay, 0, 1400)
    _, t = origins(replay.sample(np.random.default_rng(0), 1, 1300, 2).observation)
    assert (np.diff(t, axis=1) == 1).all()


def test_every_position_is_equally_likely(tmp_path: Path) -> None:
    replay = make(tmp_path)
    rows = [3, 9, 5, 14]
    for episode, n in enumerate(rows):
        add_episode(replay, episode, n)
    batch = replay.sample(np.random.default_rng(0), 1, 4, 20_000)
    episode, t = origins(batch.observation[0, 0])
    positions = [(e, s) for e, n in enumerate(rows) for s in range(n - 4 + 1)]  # none in the first, 11 in the last
    counts = np.array([((episode == e) & (t == s)).sum() for e, s in positions])
    assert counts.sum() == 20_000
    expected = 20_000 / len(positions)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 42.3  # the 0.1% point for 18 degrees of freedom; 19 positions
    assert len(positions) == 19


def test_sampling_depends_on_generator_and_contents_alone(tmp_path: Path) -> None:
    replay = make(tmp_path)
    for episode in range(4):
        add_episode(replay, episode, 10 + episode)
    at_once = replay.sample(np.random.default_rng(7), 3, 6, 4)
    assert_same(at_once, replay.sample(np.random.default_rng(7), 3, 6, 4))
    rng = np.random.default_rng(7)
    one_by_one = [replay.sample(rng, 1, 6, 4) for _ in range(3)]
    assert_same(at_once.observation, np.concatenate([batch.observation for batch in one_by_one]))
    assert not np.array_equal(at_once.observation, replay.sample(rng, 3, 6, 4).observation)


def test_a_share_of_the_sequences_is_of_the_newest_episodes(tmp_path: Path) -> None:
    replay = make(tmp_path)
    rows = [30, 30, 30, 3, 12, 4]  # the newest three: one is long, and the two short ones are joined
    for episode, n in enumerate(rows):
        add_episode(replay, episode, n)
    recency = Recency(share=0.6, episodes=3)
    batch = replay.sample(np.random.default_rng(0), 1, 5, 20_000, recency=recency)
    episode, t = origins(batch.observation[0, 0])
    positions = {e: max(n - 5 + 1, 0) for e, n in enumerate(rows)} | {3: 3}  # of 3 + 4 rows, the first in episode 3
    old, new = sum(positions[e] for e in (0, 1, 2)), sum(positions[e] for e in (3, 4, 5))
    share = np.isin(episode, [3, 4, 5]).mean()
    assert abs(share - (0.6 + 0.4 * new / (old + new))) < 0.015  # four standard deviations
    counts = np.bincount(t[episode == 4], minlength=8)
    assert len(counts) == 8 and abs(counts / counts.mean() - 1).max() < 0.1

    at_once = replay.sample(np.random.default_rng(7), 3, 5, 4, recency=recency)
    rng = np.random.default_rng(7)
    one_by_one = [replay.sample(rng, 1, 5, 4, recency=recency) for _ in range(3)]
    assert_same(at_once.observation, np.concatenate([batch.observation for batch in one_by_one]))


def test_where_no_new_episode_holds_a_sequence_all_are_sampled(tmp_path: Path) -> None:
    replay = make(tmp_path, include_running=True)
    add_episode(replay, 0, 9)
    add_episode(replay, 1, 2, ends=False)
    batch = replay.sample(np.random.default_rng(0), 1, 5, 50, recency=Recency(share=1.0, episodes=1))
    assert (origins(batch.observation[0, 0])[0] == 0).all()


def test_streams_interleave_without_mixing(tmp_path: Path) -> None:
    replay = make(tmp_path)
    for t in range(8):
        for stream in range(3):
            if t <= 4 + stream:
                add_row(replay, stream, t, stream=stream, last=t == 4 + stream)
    found = {e.stream: e.length for e in replay.episodes()}
    assert found == {0: 5, 1: 6, 2: 7}
    for episode in replay.episodes():
        which, t = origins(replay.episode(episode.id)["observation"])
        assert (which == episode.stream).all() and t.tolist() == list(range(episode.length))


def test_a_first_step_ends_what_was_going_on(tmp_path: Path) -> None:
    replay = make(tmp_path)
    add_episode(replay, 0, 6, ends=False)
    assert not replay.can_sample(2)
    add_row(replay, 1, 0)
    assert replay.can_sample(6) and replay.num_episodes == 1 and replay.num_steps == 7


def test_every_row_of_short_episodes_is_sampled_and_long_ones_are_drawn_as_if_alone(tmp_path: Path) -> None:
    """Falls and survivals: a row of a fall is seen about as often as one of a survival."""
    alone, mixed = make(tmp_path / "alone"), make(tmp_path / "mixed")
    for replay in (alone, mixed):
        add_episode(replay, 0, 40)
    add_episode(mixed, 1, 3)  # too little for a sequence: it changes nothing
    assert_same(*(replay.sample(np.random.default_rng(0), 2, 10, 50) for replay in (alone, mixed)))
    for episode in range(2, 14):
        add_episode(mixed, episode, 3)
    batch = mixed.sample(np.random.default_rng(0), 1, 10, 3000)
    counts = np.bincount(origins(batch.observation)[0].ravel(), minlength=14)[1:]
    assert 0.4 < counts[3:10].mean() / 3 / ((30_000 - counts.sum()) / 40) < 2.5
    assert (counts > 0).all()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"reward": float("nan")}, "step 1 of an episode of environment 0: its reward is nan, not a finite float32"),
        ({"reward": 1e39}, r"its reward is 1e\+39, not a finite float32"),
        ({"info": {"factors": {"clip": 0, "shift": np.array([0, np.inf])}}}, r"its factors/shift is \[0.0, inf\]"),
    ],
)
def test_what_is_not_finite_is_refused_and_not_kept(what: dict, message: str, tmp_path: Path) -> None:
    replay = make(tmp_path, factors=FACTORS)
    add_row(replay, 0, 0)
    with pytest.raises(ReplayError, match=message):
        replay.add(step(0, 1)._replace(**what), np.zeros(2, np.float32))
    with pytest.raises(ReplayError, match="its action is"):
        replay.add(step(0, 1), np.array([0, np.nan], np.float32))
    add_row(replay, 0, 1, last=True)
    assert Replay.open(tmp_path).episode(0)["reward"].tolist() == [0, 1]


def test_numpy_alone_reads_an_episode(tmp_path: Path) -> None:
    replay = make(tmp_path, factors=FACTORS)
    add_episode(replay, 3, 5)
    spec = json.loads((tmp_path / "spec.json").read_text())
    dtype = [(field["name"], field["dtype"], tuple(field["shape"])) for field in spec["fields"]]
    rows = np.fromfile(tmp_path / "episode-00000000-stream-000.bin", dtype)
    assert rows["reward"].tolist() == [0, 3001, 3002, 3003, 3004]
    assert rows["factors/clip"].tolist() == [3000, 3001, 3002, 3003, 3004]
    assert rows["is_last"].tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("torn_bytes", [0, 1, 60])
@pytest.mark.parametrize("include_running", [False, True])
def test_restore_goes_back_exactly(tmp_path: Path, torn_bytes: int, include_running: bool) -> None:
    def go_on(replay: Replay) -> list[Any]:
        add_row(replay, 2, 5)
        add_row(replay, 2, 6, last=True)
        add_episode(replay, 4, 7)
        rng = np.random.default_rng(1)
        return [contents(replay), replay.index(), replay.sample(rng, 4, 5, 8)]

    replay = make(tmp_path, include_running=include_running)
    add_episode(replay, 0, 8)
    add_episode(replay, 1, 6, stream=1)
    add_episode(replay, 2, 5, ends=False)
    index = json.loads(json.dumps(replay.index()))
    before = contents(replay)
    uninterrupted = go_on(replay)

    # The process dies after more writes, the last of them cut short; another one comes from the checkpoint.
    with (tmp_path / "episode-00000002-stream-000.bin").open("ab") as file:
        file.write(b"\xff" * torn_bytes)
    (tmp_path / "episode-00000009-stream-000.bin").write_bytes(b"\xff" * torn_bytes)
    again = make(tmp_path, include_running=include_running)
    again.restore(index)
    assert_same(contents(again), before)
    assert_same(contents(Replay.open(tmp_path)), before)  # and so do the files
    assert len(list(tmp_path.glob("*.bin"))) == 3
    assert_same(go_on(again), uninterrupted)


def test_a_half_written_record_is_written_over(tmp_path: Path) -> None:
    replay = make(tmp_path)
    add_episode(replay, 0, 5, ends=False)
    with (tmp_path / "episode-00000000-stream-000.bin").open("ab") as file:
        file.write(b"\xff" * 30)
    assert Replay.open(tmp_path).num_steps == 5
    add_row(replay, 0, 5, last=True)
    _, t = origins(Replay.open(tmp_path).episode(0)["observation"])
    assert t.tolist() == list(range(6))


def test_a_killed_writer_loses_no_step_it_added(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
from test_replay import add_episode, make
replay = make(Path({str(tmp_path)!r}))
add_episode(replay, 0, 9)
add_episode(replay, 1, 4, ends=False)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert [episode.length for episode in Replay.open(tmp_path).episodes()] == [9, 4]


def test_nothing_is_written_before_the_first_step(tmp_path: Path) -> None:
    replay = make(tmp_path / "run" / "replay")
    assert not (tmp_path / "run").exists()
    assert not replay.can_sample(1)
    with pytest.raises(ValueError, match="action"):
        replay.add(step(0, 1))
    assert not (tmp_path / "run").exists()
    replay.restore(None)
    assert Replay.open(tmp_path / "run").num_steps == 0


def test_earlier_episodes_want_restore_first(tmp_path: Path) -> None:
    add_episode(make(tmp_path), 0, 5)
    replay = make(tmp_path)
    with pytest.raises(ValueError, match="restore its index, or None"):
        add_row(replay, 0, 0)
    replay.restore(None)
    assert not list(tmp_path.glob("*.bin"))
    add_episode(replay, 1, 3)
    assert [tuple(episode) for episode in replay.episodes()] == [(0, 0, 3)]


def test_restore_refuses_an_index_that_the_files_do_not_hold(tmp_path: Path) -> None:
    replay = make(tmp_path)
    add_episode(replay, 0, 5)
    add_episode(replay, 1, 5)
    index = replay.index()
    file = tmp_path / "episode-00000001-stream-000.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ReplayError, match=r"stream-000\.bin has 4 steps, the checkpoint's replay had 5"):
        make(tmp_path).restore(index)


def test_capacity_forgets_whole_episodes_and_release_deletes_them(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=25)
    for episode in range(2):
        add_episode(replay, episode, 10)
    checkpoint, before = replay.index(), contents(replay)
    add_episode(replay, 2, 10)
    assert [episode.id for episode in replay.episodes()] == [1, 2]
    assert replay.num_steps == 20
    episode, _ = origins(replay.sample(np.random.default_rng(0), 1, 5, 200).observation)
    assert set(episode.ravel()) == {1, 2}

    replay.release(checkpoint)  # the checkpoint still wants the first
    again = make(tmp_path, capacity=25)
    again.restore(checkpoint)
    assert_same(contents(again), before)

    add_episode(again, 2, 10)
    later = again.index()
    add_episode(again, 3, 10)
    again.release(later)
    assert [path.name[:16] for path in sorted(tmp_path.glob("*.bin"))] == [f"episode-0000000{i}" for i in (1, 2, 3)]


def test_release_spares_checkpoints_after_the_one_it_is_given(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=25)
    add_episode(replay, 0, 10)
    oldest = replay.index()
    add_episode(replay, 1, 10)
    middle, before = replay.index(), contents(replay)
    for episode in range(2, 5):
        add_episode(replay, episode, 10)
    replay.release(oldest)  # 1 is in the middle one alone
    replay.restore(middle)
    assert_same(contents(replay), before)


def test_capacity_keeps_the_newest_episode_and_the_running_ones(tmp_path: Path) -> None:
    replay = make(tmp_path, capacity=5)
    add_episode(replay, 0, 10)
    assert replay.can_sample(10)
    add_episode(replay, 1, 4, stream=1, ends=False)
    add_episode(replay, 2, 10)
    assert [tuple(episode) for episode in replay.episodes()] == [(2, 0, 10), (1, 1, 4)]


def test_reading_a_replay_that_grows(tmp_path: Path) -> None:
    writer = make(tmp_path / "replay")
    add_episode(writer, 0, 6)
    add_episode(writer, 1, 4, stream=1, ends=False)
    before = {path: path.read_bytes() for path in (tmp_path / "replay").iterdir()}
    reader = Replay.open(tmp_path, observation_shape=SHAPE, action_size=2)  # the run's folder will do
    assert (reader.num_episodes, reader.num_steps) == (1, 10)
    assert {path: path.read_bytes() for path in (tmp_path / "replay").iterdir()} == before
    index = reader.index()

    add_row(writer, 1, 4, stream=1, last=True)
    add_episode(writer, 2, 7)
    assert (reader.num_episodes, reader.num_steps) == (1, 10)
    reader.refresh()
    assert_same(contents(reader), contents(writer))
    reader.restore(index)  # what the reader's own checkpoint does, the writer going on
    assert (reader.num_episodes, reader.num_steps) == (1, 10)
    assert writer.num_steps == 18 and len(list((tmp_path / "replay").glob("*.bin"))) == 3
    assert_same(
        writer.sample(np.random.default_rng(0), 1, 5, 4),
        Replay.open(tmp_path).sample(np.random.default_rng(0), 1, 5, 4),
    )


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    add_episode(make(tmp_path), 0, 5)
    reader = Replay.open(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        add_row(reader, 0, 0)
    with pytest.raises(ValueError, match="read-only"):
        reader.release(reader.index())


def test_a_reader_says_when_its_files_are_gone(tmp_path: Path) -> None:
    add_episode(make(tmp_path), 0, 9)
    reader = Replay.open(tmp_path)
    file = tmp_path / "episode-00000000-stream-000.bin"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ReplayError, match="has been cut"):
        reader.sample(np.random.default_rng(0), 1, 9, 1)
    file.unlink()
    with pytest.raises(ReplayError, match="has been deleted"):
        reader.sample(np.random.default_rng(0), 1, 9, 1)


def test_folders_that_hold_no_such_replay(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="nowhere holds no replay"):
        Replay.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "spec.json").write_text("{")
    with pytest.raises(ReplayError, match="cannot be read"):
        Replay.open(tmp_path)
    (tmp_path / "spec.json").unlink()
    add_episode(make(tmp_path), 0, 5)
    with pytest.raises(ReplayError, match=r"observations have shape \(4, 4, 3\), this run needs \(8, 8, 3\)"):
        Replay.open(tmp_path, observation_shape=(8, 8, 3))
    with pytest.raises(ReplayError, match=r"actions have shape \(2,\), this run needs \(6,\)"):
        Replay.open(tmp_path, action_size=6)
    with pytest.raises(ReplayError, match="its action is"):
        make(tmp_path, action_size=6)
    with pytest.raises(ReplayError, match="its factors/clip is nothing"):
        make(tmp_path, factors=FACTORS)
    with pytest.raises(ReplayError, match="capacity"):
        make(tmp_path, capacity=0)


@pytest.mark.parametrize(
    ("changes", "action", "message"),
    [
        ({"observation": np.zeros((8, 8, 3), np.uint8)}, np.zeros(2), r"observation has shape \(8, 8, 3\)"),
        ({"observation": np.zeros((4, 4, 1), np.uint8)}, np.zeros(2), r"observation has shape \(4, 4, 1\)"),
        ({"observation": np.zeros(SHAPE, np.float32)}, np.zeros(2), "uint8 frames, got float32"),
        ({}, np.zeros(1), r"action has shape \(1,\)"),
        ({}, None, "needs the action"),
        ({"info": {"factors": {"clip": 0}}}, np.zeros(2), "missing in this step's info: shift"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], action: np.ndarray | None, message: str
) -> None:
    replay = make(tmp_path, factors=FACTORS)
    add_row(replay, 0, 0)
    with pytest.raises(ValueError, match=message):
        replay.add(step(0, 1)._replace(**changes), action)
    assert replay.num_steps == 1


def test_an_episode_begins_with_its_first_step(tmp_path: Path) -> None:
    replay = make(tmp_path)
    with pytest.raises(ValueError, match="begin one with is_first"):
        add_row(replay, 0, 1)
    add_episode(replay, 0, 3)
    with pytest.raises(ValueError, match="begin one with is_first"):
        add_row(replay, 0, 3)
    with pytest.raises(ValueError, match="no episode 5"):
        replay.episode(5)
