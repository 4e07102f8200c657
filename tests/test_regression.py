"""Joints from pictures: who is trained and tested on what, what is learned, and the script's files."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from denoised_mdp import cli
from denoised_mdp.agent import Agent
from denoised_mdp.analysis.recordings import Recording, Recordings
from denoised_mdp.analysis.regression import Schedule, regress, split
from denoised_mdp.commands import regress as regress_command
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.model.nets import PatchEncoder
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.runs import checkpoint, run_dir

ROWS, SIDE = 40, 16
POLICIES = ["uniform", "self"] * 4
KEY = jax.random.key(0)


def record(episode: int) -> Recording:
    """Two joints that are the brightness of the picture's halves; a third that stays, and an angle."""
    rng = np.random.default_rng(episode)
    joints = rng.uniform(0, 1, (ROWS, 2))
    picture = np.zeros((ROWS, SIDE, SIDE, 3))
    picture[:, :, : SIDE // 2], picture[:, :, SIDE // 2 :] = (joints[:, i, None, None, None] for i in (0, 1))
    return Recording(
        observation=np.round(255 * picture).astype(np.uint8),
        action=np.zeros((ROWS, 1), np.float32),
        reward=np.zeros(ROWS, np.float32),
        factors={"position": np.concatenate([10 * joints, np.ones((ROWS, 1))], -1), "angle": rng.uniform(-9, 9, ROWS)},
        robot=None,
    )


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    return Recordings(
        episodes=[record(i) for i in range(len(POLICIES))],
        repeats=1,
        pairs=[],
        kinds={"position": "controlled_rewarded", "angle": "controlled_rewarded"},
        periods={"angle": np.array(2 * np.pi)},
        about={"policies": POLICIES},
    )


@pytest.fixture(scope="module")
def encoder() -> PatchEncoder:
    return PatchEncoder(SIDE, [4, 4, 8], 8, nnx.Rngs(0))


def test_sets_share_policies_and_no_episode_and_are_nested(recordings):
    data = split(recordings, "position", [20, 100], test=30)
    assert {size: len(pairs.columns) for size, pairs in data.train.items()} == {20: 20, 100: 100}
    assert len(data.test.columns) == 30
    for pairs in (*data.train.values(), data.test):
        assert (pairs.episode % 2 == 0).sum() == len(pairs.episode) // 2  # every second one is of the same policy
    assert not set(data.train[100].episode) & set(data.test.episode) and set(data.test.episode) == {6, 7}
    small, large = ({row.tobytes() for row in data.train[size].observation} for size in (20, 100))
    assert small < large


def test_columns_are_what_varies_and_an_angle_is_two(recordings):
    data = split(recordings, "position", [20], test=500)
    assert data.names == ["position[0]", "position[1]"] and len(data.test.columns) == 2 * ROWS
    everything = np.concatenate([r.factors["position"] for r in recordings.episodes])
    np.testing.assert_allclose(data.spread, everything[:, :2].std(0))
    shown = data.test.observation[:, 0, 0, 0] / 255 * 10
    expected = (shown - everything[:, 0].mean()) / everything[:, 0].std()
    np.testing.assert_allclose(data.test.columns[:, 0], expected, atol=0.02)  # pictures are rounded
    assert split(recordings, "position", [20], test=9, elements=[1]).names == ["position[1]"]
    angle = split(recordings, "angle", [20], test=500)
    assert angle.names == ["sin angle[0]", "cos angle[0]"]
    raw = angle.test.columns * angle.spread
    assert np.ptp(np.linalg.norm(raw - raw.mean(0), axis=-1)) > 0.1  # both vary by themselves


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("joints", [20], None), "factor=joints: this world has no such factor, only position, angle"),
        (("position", [20], [3]), r"elements=3: position has only the elements 0 to 2"),
        (("position", [20], [2]), "factor=position does not vary"),
        (("position", [20, 5000], None), "sizes=5000: there are only 240 train rows"),
    ],
)
def test_what_is_wrong_is_named(recordings, arguments, message):
    factor, sizes, elements = arguments
    with pytest.raises(UserError, match=message):
        split(recordings, factor, sizes, test=10, elements=elements)


def test_a_policy_needs_two_episodes(recordings):
    short = recordings._replace(episodes=recordings.episodes[:3], about={"policies": POLICIES[:3]})
    with pytest.raises(UserError, match="1 episode of the policy self: two are necessary"):
        split(short, "position", [20], test=10)


def test_what_is_in_the_picture_is_learned(recordings, encoder):
    data = split(recordings, "position", [200], test=80)
    fast = Adam(3e-3, epsilon=1e-8, clip_norm=None)
    before = jax.tree.map(np.asarray, encoder)
    for frozen in (False, True):
        found = regress(encoder, data, 200, Schedule(fast, 200, 32), KEY, frozen=frozen)
        (first, untold), (last, told) = found.curve[0], found.curve[-1]
        assert (first, last) == (10, 200) and told == found.unexplained < 0.2 < untold
        assert found.low < found.unexplained < found.high
        np.testing.assert_allclose(found.unexplained, np.mean(found.by_column))
        np.testing.assert_allclose(found.mse, np.mean(np.array(found.by_column) * data.spread**2))
        jax.tree.map(np.testing.assert_array_equal, before, encoder)
    other = data._replace(train={200: data.train[200]._replace(columns=data.train[200].columns[::-1])})
    exchanged = regress(encoder, other, 200, Schedule(fast, 200, 32), KEY, frozen=True)
    assert exchanged.unexplained > 0.9  # what the pictures do not tell cannot be learned


def test_a_frozen_encoder_is_not_trained_and_a_finetuned_one_is(recordings, encoder):
    """A blind encoder, which gives the same for every picture, learns to see unless it is frozen."""
    blind = jax.tree.map(jnp.asarray, encoder)
    blind.layers[0].kernel[...] = jnp.zeros_like(blind.layers[0].kernel[...])
    data = split(recordings, "position", [200], test=80)
    schedule = Schedule(Adam(3e-3, epsilon=1e-8, clip_norm=None), 200, 32)
    finetuned, frozen = (regress(blind, data, 200, schedule, KEY, frozen=frozen) for frozen in (False, True))
    assert finetuned.unexplained < 0.5 and frozen.unexplained > 0.9


def test_weight_decay_is_added_to_the_gradient():
    weights, gradient = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.25])
    decayed = Adam(0.1, epsilon=1e-8, clip_norm=None, weight_decay=0.3)
    plain = Adam(0.1, epsilon=1e-8, clip_norm=None)
    found, moments, _ = decayed.step(weights, gradient, decayed.init(weights))
    expected, expected_moments, _ = plain.step(weights, gradient + 0.3 * weights, plain.init(weights))
    np.testing.assert_allclose(found, expected)
    ours, theirs = (
        sorted(leaf.tolist() for leaf in jax.tree.leaves(m) if leaf.ndim) for m in (moments, expected_moments)
    )
    np.testing.assert_allclose(ours, theirs)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An untrained run, of short episodes."""
    folder = tmp_path_factory.mktemp("regression") / "run"
    small = ["size=debug", "env=sunlight", "model=tia", "env.episode_frames=40", "train.batch_length=8"]
    config = compose([*small, f"run_dir={folder}"])
    run_dir.claim(config)
    agent = Agent(config, 1)
    checkpoint.save(folder, 500, (agent.create(KEY), agent.initial(1)), {}, keep=1)
    return folder


def test_the_script_writes_a_report_from_a_run_of_any_model(run, tmp_path, capsys):
    short = ["factor=curtain", "sizes=[10,30]", "updates=20", "batch_size=8"]
    short += ["clips=2", "repeats=2", "policies=[uniform]"]
    arguments = [f"run_dir={run}", f"out={tmp_path}", f"data={tmp_path / 'pairs.npz'}", *short]
    regress_command.main(*cli.parse_run_options(regress_command.Options, arguments))
    told = capsys.readouterr().out
    assert told.count("30 rows: mse ") == 3 and "regress.png" in told
    report = json.loads((tmp_path / "regress.json").read_text())
    assert list(report["results"]) == ["finetuned", "frozen", "scratch"] and report["columns"] == ["curtain[0]"]
    assert all(len(found) == 2 and found[0]["mse"] > 0 for found in report["results"].values())
    text = (tmp_path / "regress.md").read_text()
    assert "| 30 | " in text and "a new encoder" in text and (tmp_path / "regress.png").stat().st_size > 10_000
    again = [*arguments, "encoders=[frozen]", "factor=position"]
    with pytest.raises(UserError, match="factor=position: this world has no such factor, only curtain, "):
        regress_command.main(*cli.parse_run_options(regress_command.Options, again))
    with pytest.raises(UserError, match=r"encoders\.0=warm: should be 'finetuned', 'frozen' or 'scratch'"):
        cli.parse_run_options(regress_command.Options, [*arguments, "encoders=[warm]"])
