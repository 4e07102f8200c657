"""Sunlight: that each factor is what its kind says, that all can be seen, and that none hides in another."""

import json

import numpy as np
import pytest
from environments import play, same

from denoised_mdp.config.compose import compose
from denoised_mdp.envs import Env
from denoised_mdp.envs.sunlight import FACTORS
from denoised_mdp.envs.sunlight.picture import Painter
from denoised_mdp.errors import UserError
from denoised_mdp.runs.evaluation import make_env

HALF = {"curtain": 0.5, "bird": 0.5, "weather": 0.5, "plane": 0.5}


def build(*overrides: str, seed: int = 0) -> Env:
    return make_env(compose(["env=sunlight", *overrides]), seed=seed, split="train")


def follow(env: Env, actions) -> dict[str, np.ndarray]:
    """Every factor, and the reward, from a reset on: name -> [T + 1]."""
    steps = [env.reset(), *(env.step([action]) for action in actions)]
    rows = {name: np.array([step.info["factors"][name] for step in steps]) for name in env.factor_kinds}
    return rows | {"reward": np.array([step.reward for step in steps])}


def test_there_is_a_factor_of_each_kind():
    env = build()
    assert env.factor_kinds == {
        "curtain": "controlled_rewarded",
        "bird": "controlled",
        "weather": "rewarded",
        "plane": "neither",
    }
    assert (env.action_size, env.observation_shape, env.episode_frames) == (1, (64, 64, 3), 200)
    steps = play(env, 201)
    assert [t for t, step in enumerate(steps) if step.is_last] == [200] and not steps[200].is_terminal
    assert steps[201].is_first


def test_actions_move_the_curtain_and_the_bird_and_nothing_else():
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 100))
    one, other = (follow(build(), some) for some in actions)
    for name in ("weather", "plane"):
        np.testing.assert_array_equal(one[name], other[name])
    for name in ("curtain", "bird"):
        assert np.abs(one[name] - other[name]).max() > 0.3
    opening, closing = (follow(build(), np.full(30, action))["curtain"] for action in (1, -1))
    assert opening[-1] > 0.95 and closing[-1] < 0.05


def test_the_moving_curtain_scares_the_bird_and_a_still_one_does_not():
    there_and_back = np.repeat([1, -1, 1, -1], 5)
    bird = follow(build(), [*there_and_back, *np.zeros(30)])["bird"]
    assert bird[0] == 0 and bird[6:21].min() > 0.5 and bird[40:].max() < 0.15
    at_the_stop = follow(build(), np.ones(60))  # an action that moves nothing scares nobody
    assert at_the_stop["bird"][40:].max() < 0.15


def test_the_reward_is_the_curtains_plus_the_weathers():
    actions = np.random.default_rng(0).uniform(-1, 1, 50)
    found = follow(build("env.curtain_reward=0.7", "env.weather_reward=0.2"), actions)
    np.testing.assert_allclose(found["reward"][1:], 0.7 * found["curtain"][1:] + 0.2 * found["weather"][1:])


def test_every_factor_is_spread_out_and_no_foregone_conclusion():
    world, rng = build("env.episode_frames=10000")._world, np.random.default_rng(0)
    world.reset()
    rows = []
    for _ in range(10_000):
        world.step(rng.uniform(-1, 1, 1))
        rows.append(list(world.factors().values()))
    for name, values in zip(FACTORS, np.array(rows).T, strict=True):
        assert name == "bird" or abs(values.mean() - 0.5) < 0.08, name
        assert 0.12 < values.std() < 0.36, name
        before, after = values[:-1], values[1:]
        surprise = after - np.polyval(np.polyfit(before, after, 1), before)
        assert surprise.std() > 0.03, name


@pytest.mark.parametrize("name", FACTORS)
def test_each_factor_can_be_switched_off_and_the_others_go_on(name):
    actions = np.random.default_rng(0).uniform(-1, 1, 50)
    whole, without = build(), build(f"env.{name}=0")
    a, b = follow(whole, actions), follow(without, actions)
    assert set(a) - set(b) == {name}
    untouched = set(b) - {"reward"} - ({"bird"} if name == "curtain" else set())
    for other in untouched:
        np.testing.assert_array_equal(a[other], b[other])
    if name in ("curtain", "weather"):
        np.testing.assert_allclose(a["reward"] - b["reward"], 0.5 * a[name] * (np.arange(51) > 0))
    else:
        np.testing.assert_array_equal(a["reward"], b["reward"])
    painter = Painter(**{factor: float(factor != name) for factor in FACTORS})
    low, high = (painter.paint(**{**HALF, name: value}, heading=1) for value in (0.1, 0.9))
    np.testing.assert_array_equal(low, high)


def test_without_a_curtain_nothing_scares_the_bird():
    env = build("env.curtain=0")
    assert env.factor_kinds["bird"] == "neither"
    assert follow(env, np.tile([1, -1], 25))["bird"].max() < 0.2


def changed(name: str) -> np.ndarray:
    """[64, 64], the pixels that a factor ever changes."""
    painter = Painter(curtain=1, bird=1, weather=1, plane=1)
    headings = (1, -1) if name == "plane" else (1,)
    pictures = [
        painter.paint(**{**HALF, name: value}, heading=heading)
        for value in np.linspace(0, 1, 33)
        for heading in headings
    ]
    return (np.ptp(pictures, axis=0) > 1).any(-1)


def test_every_factor_has_pixels_of_its_own():
    """And enough of them: at least 10 nats of the decoder's Gaussian of unit variance between a factor's ends."""
    masks = {name: changed(name) for name in FACTORS}
    moving = ("curtain", "bird", "plane")
    for name in moving:
        assert not any((masks[name] & masks[other]).any() for other in moving if other != name), name
    assert not (masks["weather"] & masks["curtain"]).any()
    painter = Painter(curtain=1, bird=1, weather=1, plane=1)
    for name in FACTORS:
        ends = [painter.paint(**{**HALF, name: value}, heading=1) / 255 for value in (0.0, 1.0)]
        assert ((ends[1] - ends[0]) ** 2).sum() / 2 > 10, name


def test_every_factor_can_be_read_from_the_picture():
    """By a linear regression on noisy pixels, on other pictures than it was fitted on."""
    rng, painter = np.random.default_rng(0), Painter(curtain=1, bird=1, weather=1, plane=1)
    states, headings = rng.random((900, len(FACTORS))), rng.choice([-1, 1], 900)
    pictures = [
        painter.paint(**dict(zip(FACTORS, state, strict=True)), heading=int(heading))
        for state, heading in zip(states, headings, strict=True)
    ]
    pixels = np.array(pictures).reshape(900, -1)
    pixels += rng.normal(0, 5, pixels.shape)
    pixels -= pixels[:600].mean(0)
    kernel = pixels @ pixels[:600].T / 255**2
    means = states[:600].mean(0)
    predicted = means + kernel[600:] @ np.linalg.solve(kernel[:600] + np.eye(600), states[:600] - means)
    unexplained = ((states[600:] - predicted) ** 2).mean(0) / states[600:].var(0)
    assert (unexplained < 0.01).all()


def test_the_smallest_change_is_seen():
    painter = Painter(curtain=1, bird=1, weather=1, plane=1)
    for name in FACTORS:
        a, b = (painter.paint(**{**HALF, name: value}, heading=1) for value in (0.5, 0.507))
        assert 0 < np.abs(a - b).max() < 128, name


def test_pixel_noise_is_as_strong_as_it_says_and_in_the_picture_alone():
    clean, noisy = (play(build(f"env.pixel_noise={level}"), 20) for level in (0, 10))
    difference = np.array([b.observation.astype(float) - a.observation for a, b in zip(clean, noisy, strict=True)])
    middle = np.array([(a.observation > 40) & (a.observation < 215) for a in clean])  # not cut off at black or white
    assert difference[middle].std() == pytest.approx(10, rel=0.05)
    first, second = difference[:2].reshape(2, -1)
    assert abs((first * second).mean()) < 0.1 * 10**2  # another one in each picture
    for a, b in zip(clean, noisy, strict=True):
        assert a.reward == b.reward and a.info["factors"] == b.info["factors"]


def test_strength_is_contrast():
    for name in FACTORS:
        full, half = (Painter(**{**dict.fromkeys(FACTORS, 1.0), name: strength}) for strength in (1.0, 0.5))
        contrasts = []
        for painter in (full, half):
            ends = [painter.paint(**{**HALF, name: value}, heading=1) for value in (0.0, 1.0)]
            contrasts.append(np.abs(ends[1] - ends[0]).sum())
        assert contrasts[1] == pytest.approx(contrasts[0] / 2, rel=1e-3), name


@pytest.mark.parametrize("overrides", [(), ("env.pixel_noise=5", "noise.camera_jitter=true")])
def test_it_goes_on_exactly_where_it_was_left(overrides):
    env, copy = (build(*overrides, "env.episode_frames=20", "train.batch_length=8") for _ in range(2))
    play(env, 30)
    current = copy.restore(json.loads(json.dumps(env.state())))
    assert current is not None
    rng = np.random.default_rng(3)
    for _ in range(15):
        action = rng.uniform(-1, 1, 1)
        a, b = (e.reset() if current.is_last else e.step(action) for e in (env, copy))
        assert same(a, b)
        current = a


def test_the_seed_decides_everything():
    a, b, other = (play(build(seed=seed), 10) for seed in (1, 1, 2))
    assert all(map(same, a, b)) and not any(map(same, a, other))
    reseeded, fresh = build(seed=1), build(seed=2)
    for env in (reseeded, fresh):
        env.seed(5)
    assert all(map(same, play(reseeded, 5), play(fresh, 5)))


def test_the_same_curtain_and_bird_are_seen_under_other_weather():
    env, actions = build("env.pixel_noise=5", "noise.camera_jitter=true"), np.random.default_rng(0).uniform(-1, 1, 50)
    seen = {}
    for noise in (None, 1, 2):
        env.seed(7, noise=noise)
        seen[noise] = follow(env, actions)
    for noise in (1, 2):
        for name in ("curtain", "bird"):
            np.testing.assert_array_equal(seen[noise][name], seen[None][name])
    for name in ("weather", "plane", "camera_offset"):
        first = [seen[noise][name][0] for noise in seen]
        assert len(np.unique(first, axis=0)) == 3, name
    env.seed(8, noise=1)
    other = follow(env, actions)
    for name in ("weather", "plane", "camera_offset"):
        np.testing.assert_array_equal(other[name], seen[1][name])
    assert (other["curtain"] != seen[1]["curtain"]).any()


def test_the_pixels_are_noisy_anew_too():
    env = build("env.pixel_noise=5", "env.weather=0", "env.plane=0")
    pictures = []
    for noise in (1, 2):
        env.seed(7, noise=noise)
        pictures.append(env.reset().observation)
    assert (pictures[0] != pictures[1]).mean() > 0.5


def test_the_mask_is_where_the_curtain_is():
    """Pixels without it are those of the same world without a curtain, and those with it all differ."""
    env, without = build(), build("env.curtain=0")
    assert without.robot_mask() is None
    covered = []
    for actions in (np.ones(15), -np.ones(15)):
        follow(env, actions)
        mask, picture = env.robot_mask(), env._world.render().rgb
        bare = Painter(curtain=0, bird=1, weather=1, plane=1)
        world = env._world
        factors = {name: float(value) for name, value in world.factors().items()}
        room = bare.paint(**factors, heading=world._heading).astype(np.uint8)  # type: ignore[attr-defined]
        assert mask is not None
        differs = (picture != room).any(-1)
        assert (mask <= differs).all() and (mask != differs).mean() < 0.02  # columns that are covered by less than half
        covered.append(mask.sum())
    assert covered[1] > 5 * covered[0] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.image_size=96"], "env.image_size=96: should be 64"),
        (["env.task=walker_walk"], "env.task=walker_walk: should be 'sunlight'"),
        (["env.bird=2"], "env.bird=2: should be less than or equal to 1"),
        (["env.camera=1"], r"env\.camera"),
        (["env.brid=1"], r"env\.brid=1: there is no such setting; did you mean env\.bird"),
        (["noise=video_background"], "noise.video_background=true is for env=dmc: env.name=sunlight has no background"),
        (["env.episode_frames=10"], "train.batch_length=32: must not exceed an episode, 11 steps"),
    ],
)
def test_wrong_settings_are_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)
