"""Many seeds in one process: each is what it would be alone, in its folder, and goes on with the others or alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.config import schema
from denoised_mdp.config.compose import compose, compose_seeds
from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.logger import read_metrics
from denoised_mdp.runs.replay import Batch, Replay
from denoised_mdp.training import loop
from denoised_mdp.training import vectorized as learners
from denoised_mdp.training.devices import Devices
from denoised_mdp.training.learner import AgentSnapshot, Keys, Learner, Made, Pace, Seed, SequentialLearner
from denoised_mdp.training.speeds import Speeds
from denoised_mdp.training.vectorized import VectorizedAgent, VectorizedLearner

# Three updates, at 40, 50 and 60, in two environments with episodes of 15 steps each.
TINY = [
    *("size=debug", "env=sunlight", "env.action_repeat=1", "env.episode_frames=15", "model=x", "train.envs=2"),
    *("train.env_steps=60", "train.prefill=40", "train.every=10", "train.updates=1"),
    *("train.batch_length=4", "train.batch_size=2", "replay.memory_mb=1"),
    *("policy.critics=2", "replay.recent_share=0.5", "replay.recent_episodes=1"),
    *("model.normalize_reward=true", "model.reward_variance_decay=0.9", "train.random_shift=2"),
    *("evaluate.every=60", "checkpoint.every=12", "logger.tensorboard=false"),
]


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """One for all runs, so that each program is compiled once; what is slow and not asked about here is left out."""
    agent, due = Agent(compose(TINY), 1), loop.Run.evaluations_due
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Agent", lambda *_: agent)
        patch.setattr(loop.Run, "evaluations_due", lambda run: due(run) - {"video"})
        yield agent


@pytest.fixture(scope="module")
def vectorized(agent) -> VectorizedAgent:
    """What two seeds have on a GPU."""
    return VectorizedAgent(agent, 2)


def make_batches(seed: int) -> Batch:
    """One update's."""
    rng, shape = np.random.default_rng(seed), (1, 4, 2)
    return Batch(
        observation=rng.integers(0, 256, (*shape, 64, 64, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (*shape, 1)).astype(np.float32),
        reward=rng.uniform(size=shape).astype(np.float32),
        is_first=np.zeros(shape, bool),
        is_terminal=np.zeros(shape, bool),
        factors={},
    )


def make_snapshot(agent: Agent, seed: int) -> AgentSnapshot:
    return AgentSnapshot(agent.create(jax.random.key(seed)), agent.initial(2))


def make_keys(seed: int) -> Keys:
    return Keys(*jax.random.split(jax.random.key(100 + seed)))


def largest_difference(one, other) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.max(np.abs(np.subtract(a, b, dtype=np.float64)), initial=0)) for a, b in pairs)


# Agents


@pytest.fixture(scope="module")
def learned_alone(agent) -> dict[tuple[int, int], TrainState]:
    """By seed and number of updates."""
    found = {}
    for seed in (0, 1):
        state = make_snapshot(agent, seed).state
        for update in range(10):
            state, _ = agent.train_chunk(state, make_batches(100 * update + seed), make_keys(seed).learn)
            if update in (0, 9):
                found[seed, update + 1] = jax.tree.map(np.asarray, state)
    return found


def make_learner(programs: Agent | VectorizedAgent) -> SequentialLearner | VectorizedLearner:
    """Its batches are those that `contents` say: seeds of random numbers stand for replays."""
    agent = programs.agent if isinstance(programs, VectorizedAgent) else programs
    seeds = [Seed(make_snapshot(agent, seed), make_keys(seed), lambda seed, _: make_batches(seed)) for seed in (0, 1)]
    pace = Pace(1, lambda: False, Speeds())
    if isinstance(programs, VectorizedAgent):
        return VectorizedLearner(programs, seeds, pace, Devices(1, 2))
    return SequentialLearner(programs, seeds, pace)


def learn(learner: Learner, batches: dict[int, int]) -> Made:
    """One update of each seed, on the batch that a number stands for."""
    return learner.learn(dict.fromkeys(batches, 1), cast(dict[int, Replay], batches))


@pytest.mark.parametrize(("programs", "tolerance"), [("agent", 0.0), ("vectorized", 1e-5)])
def test_seeds_learn_together_what_they_learn_alone(programs, tolerance, learned_alone, request):
    """On identical batches. In turn nothing differs; side by side sums are added up in another order.

    That is 2e-7 after one update and 3e-6 after ten, measured: float32 keeps 1e-7 of parameters of size 1, and where
    gradients are small Adam makes steps of the learning rate, up to 1e-3, of what is left of them. Another batch or
    another key would make it 1e-3.
    """
    together = make_learner(request.getfixturevalue(programs))
    for update in range(10):
        learn(together, {seed: 100 * update + seed for seed in (0, 1)})
        if update in (0, 9):
            for seed in (0, 1):
                difference = largest_difference(together.snapshot(seed).state, learned_alone[seed, update + 1])
                assert difference <= tolerance
    assert largest_difference(together.snapshot(0).state.world_model, together.snapshot(1).state.world_model) > 0.01


def test_a_seed_that_learns_by_itself_leaves_the_others_alone(vectorized, learned_alone):
    together = make_learner(vectorized)
    before = jax.tree.map(np.asarray, together.snapshot(0))
    made = learn(together, {1: 1})
    assert largest_difference(together.snapshot(1).state, learned_alone[1, 1]) == 0
    assert largest_difference(together.snapshot(0), before) == 0
    assert made.keys() == {1} and made[1][0] == 1


@pytest.mark.parametrize("programs", ["agent", "vectorized"])
def test_seeds_act_together_as_they_act_alone(programs, agent, request):
    together = make_learner(request.getfixturevalue(programs))
    observation = np.random.default_rng(0).integers(0, 256, (2, 2, 64, 64, 3), dtype=np.uint8)
    is_first = np.array([[True, False], [False, False]])
    actions = [together.act(observation, is_first, env_step) for env_step in (7, 8)]
    for seed in (0, 1):
        state, memory = make_snapshot(agent, seed)
        for env_step in (7, 8):
            key = jax.random.fold_in(make_keys(seed).collect, env_step)
            memory = agent.act(agent.acting(state), memory, observation[seed], is_first[seed], key, explore=True)
            np.testing.assert_allclose(actions[env_step - 7][seed], memory.action, atol=1e-5)
        assert largest_difference(together.snapshot(seed).memory, memory) < 1e-5


# Runs


def folder(base: Path, seed: int) -> Path:
    return base / f"seed{seed}"


def newest(base: Path) -> list[int]:
    """The env step of each seed's last checkpoint."""
    return [int(checkpoint.all_of(folder(base, seed))[-1].name) for seed in (0, 1)]


def start(base: Path, *more: str, seeds: int = 2) -> None:
    loop.train(*compose_seeds([*TINY, f"run_dir={base}", f"seeds={seeds}", *more]))


def start_alone(base: Path, seed: int, *more: str) -> None:
    loop.train(compose([*TINY, f"run_dir={folder(base, seed)}", f"seed={seed}", *more]))


@pytest.fixture(scope="module")
def alone(agent, tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("alone")
    for seed in (0, 1):
        start_alone(base, seed)
    return base


def assert_same_runs(base: Path, other: Path, *, tolerance: float = 0.0) -> None:
    """But for the speed of theirs."""
    for seed in (0, 1):
        ours, theirs = (folder(path, seed) for path in (base, other))
        assert schema.differences(run_dir.load(ours), run_dir.load(theirs)) == []
        texts = [(path / "config.yaml").read_text().replace("device: true", "device: false") for path in (ours, theirs)]
        assert texts[0] == texts[1].replace(str(other), str(base))
        paths = [checkpoint.all_of(path)[-1] for path in (ours, theirs)]
        progress, single = (checkpoint.load_progress(path) for path in paths)
        if tolerance:  # actions differ in the last bits, and so the checksums of episodes differ
            del progress["replay"]["checksums"], single["replay"]["checksums"]
        exact = (
            progress if tolerance == 0 else ("env_step", "updates", "evaluated_at", "finished", "sampling", "replay")
        )
        assert {name: progress[name] for name in exact} == {name: single[name] for name in exact}
        arrays, others = (load_file(path / "state.safetensors") for path in paths)
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, others[name], rtol=0, atol=tolerance, err_msg=name)
        for episode in Replay.open(ours).episodes():
            rows, again = (Replay.open(path).episode(episode.id) for path in (ours, theirs))
            for name in rows:
                near = tolerance * (255 if name == "observation" else 1)
                one, other_one = rows[name].astype(float), again[name].astype(float)
                np.testing.assert_allclose(one, other_one, rtol=0, atol=near, err_msg=name)
        lines, others = (read_metrics(path) for path in (ours, theirs))
        assert [line.keys() for line in lines] == [line.keys() for line in others]
        for line, other_line in zip(lines, others, strict=True):
            for name in line:
                if not name.startswith("speed/"):
                    assert line[name] == pytest.approx(other_line[name], rel=tolerance, abs=tolerance), name
        assert any("evaluate/return_mean" in line for line in lines)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("on", ["cpu", "gpu"])
def test_two_seeds_leave_what_two_single_runs_leave(on, on_device, alone, vectorized, tmp_path, monkeypatch):
    """A CPU takes them in turn. Side by side three updates differ by less than the test above allows ten.

    With their replays on the device they are the same runs.
    """
    if on == "gpu":
        monkeypatch.setattr(learners, "vectorized_agent", lambda *_: vectorized)
    start(tmp_path, f"replay.device={on_device}")
    assert_same_runs(tmp_path, alone, tolerance=0.0 if on == "cpu" else 1e-5)
    first, second = (Replay.open(folder(tmp_path, seed)).episode(0) for seed in (0, 1))
    assert not np.array_equal(first["observation"], second["observation"])
    assert not np.array_equal(first["action"], second["action"])


def stop_at(env_step: int, number: int, monkeypatch) -> None:
    """A signal arrives as the collecting reaches an env step."""
    collect = loop.Training._collect

    def collect_and_signal(training: loop.Training) -> None:
        collect(training)
        if training.env_step == env_step:
            signal.raise_signal(number)

    monkeypatch.setattr(loop.Training, "_collect", collect_and_signal)


def test_stopped_seeds_go_on_together_and_one_of_them_alone(alone, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(46, signal.SIGTERM, patch)
        with pytest.raises(SystemExit):
            start(tmp_path)
    assert newest(tmp_path) == [46, 46]
    with monkeypatch.context() as patch:
        stop_at(50, signal.SIGUSR1, patch)
        with pytest.raises(SystemExit):
            start(tmp_path)
    start_alone(tmp_path, 1)
    start(tmp_path)  # which leaves the finished one out
    assert_same_runs(tmp_path, alone)


class Kill(BaseException):
    """Ends a run on the spot."""


def test_seeds_of_which_some_were_saved_go_back_to_where_all_were(alone, tmp_path, monkeypatch, capsys):
    save = loop.Run.save

    def kill_between(run: loop.Run, snapshot: AgentSnapshot) -> None:
        if (run.config.seed, run.env_step) == (1, 48):
            raise Kill
        save(run, snapshot)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "save", kill_between)
        with pytest.raises(Kill):
            start(tmp_path)
    assert newest(tmp_path) == [48, 36]
    start(tmp_path)
    assert "seed0 goes back to env step 36" in capsys.readouterr().out
    assert_same_runs(tmp_path, alone)


def test_seeds_at_different_env_steps_are_refused_until_they_are_level(tmp_path):
    start_alone(tmp_path, 0, "train.env_steps=42")
    with pytest.raises(UserError) as caught:
        start(tmp_path)
    (line,) = str(caught.value).splitlines()
    assert "seed 0 at 42, seed 1 at 0" in line
    assert f"seed=1 run_dir={folder(tmp_path, 1)} train.env_steps=42" in line
    assert not folder(tmp_path, 1).exists()
    start_alone(tmp_path, 1, "train.env_steps=42")
    start(tmp_path, "train.env_steps=46")
    assert newest(tmp_path) == [46, 46]


def test_all_seeds_can_learn_from_one_replay_each_with_its_own_batches(alone, tmp_path):
    start(tmp_path, f"replay.source={folder(alone, 0)}")
    paths = [checkpoint.all_of(folder(tmp_path, seed))[-1] for seed in (0, 1)]
    assert [checkpoint.load_progress(path)["updates"] for path in paths] == [3, 3]
    first, second = (load_file(path / "state.safetensors") for path in paths)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    assert not (folder(tmp_path, 0) / "replay").exists()


# The command line


def test_each_seed_has_the_configuration_and_name_of_its_single_run():
    group = compose_seeds(["model.beta=0.5", "seed=3", "seeds=3"])
    assert group == [compose(["model.beta=0.5", f"seed={seed}"]) for seed in (3, 4, 5)]
    assert group[0].run_dir == "runs/cheetah_run-none-xy-small-seed3-model.beta_0.5"
    under = compose_seeds(["run_dir='runs/try-${seed}'", "seeds=2"])
    assert [each.run_dir for each in under] == ["runs/try-0/seed0", "runs/try-0/seed1"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seeds=0"], "seeds=0: should be greater than or equal to 1"),
        (["seeds=many"], "seeds=many: should be a valid integer"),
        (["seed=2147483646", "seeds=3"], "seed=2147483648: should be less than 2147483648"),
    ],
)
def test_wrong_numbers_of_seeds_are_told(overrides, words):
    with pytest.raises(UserError, match=words):
        compose_seeds(overrides)


def test_seeds_go_into_no_run_s_folder(tmp_path):
    run_dir.claim(compose([f"run_dir={tmp_path / 'run'}"]))
    (inside, _) = compose_seeds([f"run_dir={tmp_path / 'run'}", "seeds=2"])
    with pytest.raises(UserError, match="lies in the folder of another run"):
        run_dir.check(inside)
