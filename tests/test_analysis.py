"""The measures of a factorization, on latents whose answer is known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp.agent import Agent
from denoised_mdp.analysis.factorization import clean_pairs, influence, pictures, readings, report
from denoised_mdp.analysis.factorization.headline import alarms, headline
from denoised_mdp.analysis.factorization.measure import measure
from denoised_mdp.analysis.factorization.probes import LINEAR, NONLINEAR, Matrix, best, leakage_matrix, whole_repeats
from denoised_mdp.analysis.factorization.targets import Classes, Numbers, targets
from denoised_mdp.analysis.posterior import Filtered, filter_episode
from denoised_mdp.analysis.recordings import Recording, Recordings, bang_bang, collect, load, save, uniform
from denoised_mdp.config.compose import compose
from denoised_mdp.envs import FactorKind
from denoised_mdp.errors import UserError
from denoised_mdp.model.latent import Factor, by_name

EPISODES, REPEATS, ROWS = 8, 4, 60
KINDS: dict[str, FactorKind] = {
    "joint": "controlled_rewarded",
    "angle": "controlled_rewarded",
    "video": "neither",
    "clip": "neither",
}
PERIODS = {"angle": np.array(2 * np.pi)}


def walk(rng: np.random.Generator, width: int) -> np.ndarray:
    """Slow random series [EPISODES * ROWS, width], a new one in each episode."""
    noise = rng.standard_normal((EPISODES, ROWS, width))
    for t in range(1, ROWS):
        noise[:, t] = 0.9 * noise[:, t - 1] + 0.44 * noise[:, t]
    return noise.reshape(-1, width)


EPISODE = np.repeat(np.arange(EPISODES), ROWS)


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "joint": walk(rng, 3),
        "angle": np.cumsum(0.3 * walk(rng, 1)[:, 0]),  # turns round and round
        "video": walk(rng, 2),
        "clip": np.repeat(np.arange(EPISODES) % 2, ROWS),
    }


def signal(truth) -> np.ndarray:
    return np.concatenate([truth["joint"], np.sin(truth["angle"])[:, None], np.cos(truth["angle"])[:, None]], -1)


def noise(truth) -> np.ndarray:
    return np.concatenate([truth["video"], truth["clip"][:, None]], -1)


def mixed(columns: np.ndarray, width: int, seed: int) -> np.ndarray:
    """The columns under a random linear map, and a little of the noise that every sample has."""
    rng = np.random.default_rng(seed)
    return columns @ rng.standard_normal((columns.shape[1], width)) + 0.05 * rng.standard_normal((len(columns), width))


def probed(truth, x: np.ndarray, y: np.ndarray) -> Matrix:
    reward = truth["joint"].sum(-1)
    wanted, _ = targets(truth, KINDS, PERIODS, reward, EPISODE)
    features = {"x": x, "y": y, "all": np.concatenate([x, y], -1)}
    return leakage_matrix(features, wanted, EPISODE, REPEATS, kinds=[LINEAR], resamples=200)


def pure(seed: int) -> np.ndarray:
    """Features that know nothing."""
    return np.random.default_rng(seed).standard_normal((len(EPISODE), 12))


def raised(matrix: Matrix, **kl: float) -> set[tuple[str, str]]:
    return {(alarm.name, alarm.part) for alarm in alarms(matrix, KINDS, kl)}


def test_a_perfect_split_keeps_all_and_leaks_nothing(truth):
    matrix = probed(truth, mixed(signal(truth), 12, 1), mixed(noise(truth), 12, 2))
    numbers = headline(matrix, KINDS)
    assert numbers.signal_in_x and numbers.noise_in_x and numbers.signal_outside_x
    assert numbers.signal_in_x.value > 0.95 and numbers.signal_in_x.low > 0.9
    assert numbers.noise_in_x.value < 0.15 and numbers.signal_outside_x.value < 0.02
    assert best(matrix["y"]["video"]).value > 0.95 and best(matrix["y"]["clip"]).value > 0.95
    assert best(matrix["x"]["reward"]).value > 0.95 and best(matrix["y"]["reward"]).value < 0.1
    assert raised(matrix, x=8.0, y=8.0) == set()


def test_swapped_parts_raise_the_alarm(truth):
    matrix = probed(truth, mixed(noise(truth), 12, 1), mixed(signal(truth), 12, 2))
    numbers = headline(matrix, KINDS)
    assert numbers.signal_in_x and numbers.noise_in_x and numbers.signal_outside_x
    assert numbers.signal_in_x.value < 0.1 and numbers.signal_outside_x.value > 0.9
    assert numbers.noise_in_x.value > 0.9 and numbers.noise_in_x.factor in ("video", "clip")
    assert raised(matrix, x=8.0, y=8.0) == {("swapped", "y"), ("leaking", "x")}


def test_a_collapsed_part_raises_the_alarm_where_it_is_needed(truth):
    matrix = probed(truth, mixed(np.concatenate([signal(truth), noise(truth)], -1), 12, 1), pure(2))
    assert raised(matrix, x=20.0, y=0.01) == {("collapsed", "y"), ("leaking", "x")}
    assert raised(matrix, x=20.0, y=5.0) == {("leaking", "x")}  # it carries something, if nothing that we ask for
    without_noise = {part: {n: c for n, c in cells.items() if n == "joint"} for part, cells in matrix.items()}
    assert alarms(without_noise, {"joint": KINDS["joint"]}, {"x": 20.0, "y": 0.01}) == []
    nothing_in_x = probed(truth, pure(3), mixed(noise(truth), 12, 2))
    assert raised(nothing_in_x, x=0.01, y=8.0) == {("collapsed", "x")}


def test_x_alone_leaks_no_alarm_but_its_number(truth):
    everything = mixed(np.concatenate([signal(truth), noise(truth)], -1), 16, 1)
    matrix = probed(truth, everything, everything)
    numbers = headline(matrix, KINDS)
    assert numbers.noise_in_x and numbers.noise_in_x.value > 0.9
    assert raised({part: matrix[part] for part in ("x", "all")}, x=20.0) == set()  # Dreamer has no other place for it


def test_probes_of_pure_noise_are_at_the_baseline_and_so_are_exchanged_labels(truth):
    kinds: dict[str, FactorKind] = {"joint": KINDS["joint"], "video": KINDS["video"]}
    wanted, _ = targets(truth, kinds, {}, np.zeros(len(EPISODE)), EPISODE)
    features = {"x": mixed(signal(truth), 12, 1), "y": pure(2)}
    matrix = leakage_matrix(features, wanted, EPISODE, REPEATS, resamples=50)
    for kind in (LINEAR, NONLINEAR):
        for name in kinds:
            assert matrix["y"][name][kind].value < 0.05, (kind, name)
            assert matrix["x"][name][kind].baseline < 0.1, (kind, name)
        assert matrix["x"]["joint"][kind].value > 0.9 and matrix["x"]["video"][kind].value < 0.05


def test_what_time_alone_tells_is_in_the_baseline():
    """A video that is the same at the same time in each episode can be read from a clock, and from no more."""
    rng = np.random.default_rng(0)
    video = np.tile(walk(rng, 1)[:ROWS], (EPISODES, 1))
    clock = np.tile(np.eye(ROWS), (EPISODES, 1))
    wanted, _ = targets({"video": video}, {"video": "neither"}, {}, np.zeros(len(EPISODE)), EPISODE)
    score = leakage_matrix({"x": clock}, wanted, EPISODE, REPEATS, kinds=[LINEAR], resamples=50)["x"]["video"][LINEAR]
    assert score.value > 0.9 and score.baseline == pytest.approx(score.value, abs=0.02)


def test_a_curved_relation_is_for_the_non_linear_probe_alone():
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((len(EPISODE), 2))
    wanted, _ = targets({"product": hidden.prod(-1)}, {"product": "neither"}, {}, np.zeros(len(EPISODE)), EPISODE)
    cell = leakage_matrix({"x": hidden}, wanted, EPISODE, REPEATS, resamples=50)["x"]["product"]
    assert cell[LINEAR].value < 0.05 and cell[NONLINEAR].value > 0.3


def test_intervals_hold_the_value_and_are_narrow_where_episodes_agree(truth):
    weak = mixed(signal(truth), 12, 1) + 3 * pure(3)
    matrix = probed(truth, weak, pure(2))
    score = matrix["x"]["joint"][LINEAR]
    assert score.low < score.value < score.high and score.high - score.low < 0.3
    sure = probed(truth, mixed(signal(truth), 12, 1), pure(2))["x"]["joint"][LINEAR]
    assert sure.high - sure.low < 0.05 < score.high - score.low


def test_targets_are_what_can_be_probed():
    factors = {
        "still": np.ones(len(EPISODE)),
        "partly": np.stack([np.ones(len(EPISODE)), np.arange(len(EPISODE)) / 7], -1),
        "own_clip": EPISODE.copy(),
        "shared_clip": EPISODE // 3,  # the last of three in two episodes only
        "lonely": np.where(EPISODE == 0, 5, EPISODE % 2),
        "frame": np.arange(len(EPISODE)),
        "pressed": EPISODE % 2 == 0,
        "phase": np.arange(len(EPISODE)) % 50,
    }
    kinds = {name: "neither" for name in factors}
    found, left_out = targets(factors, kinds, {"phase": np.array(50.0)}, np.arange(len(EPISODE)), EPISODE)  # type: ignore[arg-type]
    by_name = {target.name: target for target in found}
    assert set(left_out) == {"still", "own_clip"} and "reward" in by_name
    assert isinstance(by_name["pressed"], Classes) and isinstance(by_name["shared_clip"], Classes)
    lonely = by_name["lonely"]
    assert isinstance(lonely, Classes) and (lonely.labels[EPISODE == 0] == -1).all()
    partly, frame, phase = by_name["partly"], by_name["frame"], by_name["phase"]
    assert isinstance(partly, Numbers) and partly.elements.tolist() == [1]
    assert isinstance(frame, Numbers) and frame.columns.shape[1] == 1
    assert isinstance(phase, Numbers) and phase.columns.shape[1] == 2 and phase.elements.tolist() == [0, 0]
    np.testing.assert_allclose(phase.columns[0], phase.columns[50], atol=1e-9)


def test_movement_tells_noise_from_physics():
    rng = np.random.default_rng(0)
    physics, noise = rng.standard_normal((4, 1, 30, 5)), rng.standard_normal((1, 3, 30, 5))
    everywhere = np.zeros((4, 3, 30, 5))
    blind, seeing = (clean_pairs.movement(everywhere + part) for part in (physics, noise))
    assert blind.noise_share.value == 0 and blind.by_noise == 0
    assert seeing.noise_share.value == 1 and seeing.by_physics == 0
    both = clean_pairs.movement(physics + noise).noise_share
    assert both.low <= both.value <= both.high and both.value == pytest.approx(0.5, abs=0.05)


# Real models, small and untrained


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(compose(["size=debug", "model=xyz"]), 2)


@pytest.fixture(scope="module")
def recordings(agent) -> Recordings:
    settings = compose(["size=debug", "env.task=reacher_easy", "noise=video_background", "render.backend=ray"])
    from denoised_mdp.runs.evaluation import make_env

    envs = [make_env(settings, seed=seed, split="eval") for seed in (1, 2)]
    policies = {"uniform": uniform(2), "bang_bang": bang_bang(2)}
    return collect(envs, policies, repeats=2, physics=2, noises=2, seed=5, about={"env": {}}, steps=20)


@pytest.fixture(scope="module")
def model(agent):
    return agent.create(jax.random.key(0)).world_model


def test_recordings_survive_the_disk(recordings, tmp_path):
    save(recordings, tmp_path / "deep" / "episodes.npz")
    again = load(tmp_path / "deep" / "episodes.npz")
    assert jax.tree.structure(again) == jax.tree.structure(recordings)
    assert again.about == recordings.about and again.kinds == recordings.kinds
    arrays = [(r._replace(robot=r.robot), s) for r, s in zip(recordings.episodes, again.episodes, strict=True)]
    for ours, theirs in arrays:
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    (tmp_path / "other.npz").write_bytes(b"no recordings")
    with pytest.raises(UserError, match=r"other\.npz holds no recorded episodes"):
        load(tmp_path / "other.npz")


def test_recorded_pairs_share_their_physics_and_their_noise(recordings):
    for row in recordings.pairs:
        np.testing.assert_array_equal(row[0].factors["position"], row[1].factors["position"])
        np.testing.assert_array_equal(row[0].action, row[1].action)
        assert (row[0].observation != row[1].observation).any()
    for n in range(2):
        first, second = (recordings.pairs[p][n].factors for p in range(2))
        np.testing.assert_array_equal(first["video_frame"], second["video_frame"])
        assert (first["position"] != second["position"]).any()
    assert recordings.about["policies"] == ["uniform", "bang_bang"] * 4
    clips = [int(recording.factors["video_clip"][0]) for recording in recordings.episodes]
    assert clips[0] == clips[1] != clips[2] == clips[3] and clips[:4] == clips[4:]  # both policies in each environment


def test_random_policies_are_a_function_of_the_seed_and_hold_their_actions(recordings):
    bang = recordings.episodes[1].action[1:]
    assert set(np.unique(bang)) == {-1.0, 1.0}
    assert 0 < (np.diff(bang, axis=0) != 0).mean() < 0.3
    again = [bang_bang(3)(np.random.default_rng(4))(None) for _ in range(2)]  # type: ignore[arg-type]
    np.testing.assert_array_equal(again[0], again[1])


def test_the_same_key_is_the_same_draw_whatever_is_seen(model, recordings):
    recording = recordings.episodes[0]
    one, same = (filter_episode(model, recording.observation, recording.action, jax.random.key(3)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    other = filter_episode(model, recording.observation, recording.action, jax.random.key(4))
    assert (np.asarray(one.s.x.state) != np.asarray(other.s.x.state)).any()
    assert all((np.asarray(kl) >= 0).all() and kl.shape == (21,) for kl in one.kl)


def test_the_action_decides_nothing_of_y(model, recordings):
    recording = recordings.episodes[0]
    s = filter_episode(model, recording.observation, recording.action, jax.random.key(3)).s
    decided = influence.controllability(model, s, influence.random_actions(jax.random.key(0), 21, 2))
    assert float(decided.y) < 1e-9 and 0 < float(decided.x) < 1 and 0 < float(decided.z) < 1


def latents(**parts: np.ndarray) -> list[Filtered]:
    """Filtered episodes whose parts are these features [EPISODES * ROWS, D]."""
    none = jnp.zeros((ROWS, 0))

    def filtered(episode: int) -> Filtered:
        rows = {name: jnp.asarray(features[episode == EPISODE]) for name, features in parts.items()}
        return Filtered(by_name(lambda name: Factor(none, rows.get(name, none))), by_name(lambda _: jnp.ones(ROWS)))

    return [filtered(episode) for episode in range(EPISODES)]


def plain_recordings(action: np.ndarray, reward: np.ndarray) -> list[Recording]:
    frames = np.zeros((ROWS, 1, 1, 3), np.uint8)
    return [Recording(frames, action[e == EPISODE], reward[e == EPISODE], {}, None) for e in range(EPISODES)]


def test_a_part_that_follows_the_action_is_found_out():
    rng = np.random.default_rng(0)
    action = rng.standard_normal((len(EPISODE), 2)).astype(np.float32)
    pushed, drifting = np.zeros((len(EPISODE), 2)), walk(rng, 2)
    for t in range(1, len(EPISODE)):
        pushed[t] = 0.8 * pushed[t - 1] + action[t]
    recordings = plain_recordings(action, np.zeros(len(EPISODE)))
    gains = influence.action_gain(latents(x=pushed, y=drifting), recordings, REPEATS)
    assert gains["x"] > 0.3 and abs(gains["y"]) < 0.02 and "z" not in gains


def test_readings_follow_the_truth_in_the_part_that_knows_it(truth):
    recordings = Recordings(
        episodes=[
            r._replace(factors={name: values[e == EPISODE] for name, values in truth.items()})
            for e, r in enumerate(plain_recordings(np.zeros((len(EPISODE), 1)), np.zeros(len(EPISODE))))
        ],
        repeats=REPEATS,
        pairs=[],
        kinds=KINDS,
        periods=PERIODS,
        about={},
    )
    found = readings.readings(latents(x=mixed(signal(truth), 12, 0), y=mixed(noise(truth), 12, 1)), recordings)
    assert set(found) == {"joint", "angle", "video"}  # the clip is a class, and the reward never varies

    def wrong(name, part):
        return np.var(found[name].truth - found[name].read[part])

    assert wrong("joint", "x") < 0.1 < 0.7 < wrong("joint", "y")
    assert wrong("video", "y") < 0.1 < 0.7 < wrong("video", "x")


def test_reward_is_explained_by_the_head_that_says_it(model, monkeypatch):
    rng = np.random.default_rng(0)
    of_x, of_y = (rng.standard_normal(len(EPISODE)).astype(np.float32) for _ in range(2))
    filtered = latents(x=of_x[:, None], y=of_y[:, None])
    recordings = plain_recordings(np.zeros((len(EPISODE), 2), np.float32), 2 * of_x + of_y + 7)
    monkeypatch.setattr(influence, "reward_heads", lambda model, s: (2 * s.x.state[:, 0], s.y.state[:, 0] - 3))
    explained = influence.reward_relevance(model, filtered, recordings)
    assert explained["all"] == pytest.approx(1)  # a constant does not count
    assert explained["x"] == pytest.approx(0.8, abs=0.05) and explained["y"] == pytest.approx(0.2, abs=0.05)
    still = [recording._replace(reward=np.ones(ROWS, np.float32)) for recording in recordings]
    assert influence.reward_relevance(model, filtered, still)["x"] is None


def test_reconstruction_knows_the_robot_from_the_rest(model, monkeypatch):
    """A picture whose left half is drawn by x and whose right half by y, both perfectly."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (len(EPISODE), 2)).astype(np.uint8)
    robot = np.zeros((ROWS, 2, 2), bool)
    robot[:, :, 0] = True

    def error(model, s, observation):
        drawn = jnp.stack([s.x.state[:, 0], s.y.state[:, 0]], -1)
        return (drawn[:, None] - jnp.asarray(observation, jnp.float32).mean(-1) / 255) ** 2

    monkeypatch.setattr(pictures, "squared_error", error)
    filtered = latents(x=grey[:, :1] / 255, y=grey[:, 1:] / 255)
    recordings = [
        r._replace(observation=np.broadcast_to(grey[e == EPISODE][:, None, :, None], (ROWS, 2, 2, 3)), robot=robot)
        for e, r in enumerate(plain_recordings(np.zeros((len(EPISODE), 1), np.float32), np.zeros(len(EPISODE))))
    ]
    found = pictures.reconstruction(model, filtered, recordings)
    assert found is not None
    on, off = found["on_robot"], found["off_robot"]
    assert on["all"] < 1e-10 and on["x"] < 1e-10 and on["noise"] > 0.05 and on["nothing"] == on["noise"]
    assert off["all"] < 1e-10 and off["noise"] < 1e-10 and off["x"] > 0.05
    assert (on["x_share"], on["noise_share"]) == pytest.approx((1, 0))
    assert (off["x_share"], off["noise_share"]) == pytest.approx((0, 1))
    assert pictures.reconstruction(model, filtered, [r._replace(robot=None) for r in recordings]) is None


def test_everything_is_measured_and_written(model, recordings, tmp_path):
    found = {"title": "a test"} | measure(model, recordings, jax.random.key(0), probes=[LINEAR])
    paths = report.write(tmp_path, found)
    assert [path.suffix for path in paths] == [".json", ".md", ".png"]
    again = json.loads(paths[0].read_text())
    factors = {"position", "velocity", "target", "video_frame", "video_clip", "video_brightness"}
    assert set(again["matrix"]) == factors | {"reward"} and again["left_out"] == {}
    for part in ("x", "y", "z", "all"):
        score = again["matrix"]["position"][part]["linear"]
        assert 0 <= score["low"] <= score["score"] <= score["high"] <= 1 and score["baseline"] >= 0
    assert again["parts"]["y"]["controllability"] < 1e-9
    assert set(again["clean_pairs"]) == {"x", "y", "z"} and set(again["reconstruction"]) == {"on_robot", "off_robot"}
    text = paths[1].read_text()
    for words in ("signal kept in x", "noise leaked into x", "signal stranded outside x", "video_brightness"):
        assert words in text


def test_whoever_recognises_the_policy_is_not_misled_about_the_video():
    """Two policies in two environments, twice: with single episodes held out, the policy would tell the wrong clip."""
    policy, clip = np.arange(EPISODES) % 2, np.arange(EPISODES) // 2 % 2
    wanted, _ = targets({"clip": clip[EPISODE]}, {"clip": "neither"}, {}, np.zeros(len(EPISODE)), EPISODE)
    knows_both = np.stack([3.0 * policy, 0.3 * clip], -1)[EPISODE] + 0.2 * pure(1)[:, :2]
    score = leakage_matrix({"all": knows_both}, wanted, EPISODE, 2, kinds=[LINEAR], resamples=50)["all"]["clip"][LINEAR]
    for fit, predict in whole_repeats(EPISODE, 2):
        assert set(EPISODE[fit]) | set(EPISODE[predict]) == set(range(EPISODES))
        for rows in (fit, predict):
            assert np.corrcoef(policy[EPISODE[rows]], clip[EPISODE[rows]])[0, 1] == pytest.approx(0, abs=1e-9)
    assert score.value > 0.5


def test_pairs_without_noise_say_nothing(model, recordings):
    row = recordings.pairs[0]
    assert clean_pairs.clean_pairs(model, [[row[0], row[0]], [row[1], row[1]]], jax.random.key(0)) == {}
    assert set(clean_pairs.clean_pairs(model, recordings.pairs, jax.random.key(0))) == {"x", "y", "z"}
