"""The environment as the agent meets it: episodes, actions, rewards, noise that leaves them alone, and resuming."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium.utils.env_checker
import numpy as np
import pytest
from environments import build, play, same, shorten

from denoised_mdp import envs
from denoised_mdp.envs import Env, Step
from denoised_mdp.envs.gymnasium_adapter import GymnasiumEnv
from denoised_mdp.envs.noise.video_background import grid_means


def test_a_step_is_what_it_says():
    env = build()
    first, second = play(env, 1)
    assert (env.action_size, env.observation_shape, env.action_repeat, env.episode_frames) == (6, (64, 64, 3), 2, 1000)
    assert first.is_first and not first.is_last and first.reward == 0
    assert not second.is_first and isinstance(second.reward, float)
    for step in (first, second):
        assert step.observation.shape == (64, 64, 3) and step.observation.dtype == np.uint8
        assert step.info["factors"].keys() == env.factor_kinds.keys()
        assert all(isinstance(value, np.ndarray) for value in step.info["factors"].values())
    assert set(env.factor_kinds.values()) <= set(envs.FACTOR_KINDS)
    assert first.info["factors"]["position"].shape == (9,)


def test_rewards_are_summed_over_the_repeat_and_the_end_is_found_inside_it():
    once, thrice = (shorten(build(action_repeat=repeat, video_background=False), 10) for repeat in (1, 3))
    action = np.full(6, 0.3)
    once.reset()
    rewards = [once.step(action) for _ in range(10)]
    assert [step.is_last for step in rewards] == [False] * 9 + [True]
    thrice.reset()
    summed = [thrice.step(action) for _ in range(4)]
    expected = np.add.reduceat([step.reward for step in rewards], [0, 3, 6, 9])
    np.testing.assert_array_equal([step.reward for step in summed], expected)
    assert [step.is_last for step in summed] == [False] * 3 + [True]
    assert not summed[-1].is_terminal  # time was up, no more
    with pytest.raises(RuntimeError, match="reset"):
        thrice.step(action)


def test_an_episode_has_the_suites_length():
    env = build(task="point_mass_easy", action_repeat=100)
    assert [step.is_last for step in play(env, 10)] == [False] * 10 + [True]


def test_actions_are_clipped_and_scaled_to_the_tasks_bounds():
    env = build(task="quadruped_walk", video_background=False)
    spec = env._world.action_spec()
    assert spec.maximum.max() == pytest.approx(1.1)  # else this shows nothing
    given = []
    world_step = env._world.step
    env._world.step = lambda action: given.append(action) or world_step(action)  # type: ignore[method-assign]
    env.reset()
    for value in (-7, -1, 0, 1, 7):
        env.step(np.full(env.action_size, value))
    middle = (spec.minimum + spec.maximum) / 2
    for seen, meant in zip(given[::2], [spec.minimum, spec.minimum, middle, spec.maximum, spec.maximum], strict=True):
        np.testing.assert_allclose(seen, meant, atol=1e-12)


@pytest.mark.parametrize("action", [np.zeros(5), np.full(6, np.nan), 0.0])
def test_a_wrong_action_is_refused(action):
    env = build()
    env.reset()
    with pytest.raises(ValueError, match="6 finite numbers"):
        env.step(action)


def test_actuators_without_limits_and_episodes_without_an_end_get_them():
    env = build(task="lqr_lqr_2_1")
    spec = env._world.action_spec()
    assert (spec.minimum.item(), spec.maximum.item()) == (-1, 1)
    assert env.episode_frames == 1000


def test_an_episode_that_can_earn_no_more_is_terminal():
    env = build(task="lqr_lqr_2_1", video_background=False)
    physics = env._world._physics  # type: ignore[attr-defined]
    env.reset()
    with physics.reset_context():
        physics.data.qpos[:] = physics.data.qvel[:] = 0  # at rest where it should be
    step = env.step(np.zeros(1))
    assert step.is_last and step.is_terminal


def test_the_seed_decides_everything():
    a, b, other = (play(build(seed=seed), 5) for seed in (1, 1, 2))
    assert all(map(same, a, b))
    assert not (a[0].info["factors"]["position"] == other[0].info["factors"]["position"]).all()
    assert a[0].info["factors"]["video_clip"] != other[0].info["factors"]["video_clip"]


def test_evaluation_has_other_episodes_and_videos_under_the_same_seed():
    train, test = (play(build(split=split), 0)[0].info["factors"] for split in ("train", "eval"))
    assert train["video_clip"] != test["video_clip"]
    assert not (train["position"] == test["position"]).all()


def test_rendering_leaves_physics_alone():
    """The ray caster puts its own bounding volumes into the model for the time of a cast."""
    rendered, not_rendered = (build(task="humanoid_run", video_background=False) for _ in range(2))
    model = rendered._world._physics.model.ptr  # type: ignore[attr-defined]
    boxes, groups = model.bvh_aabb.copy(), model.geom_group.copy()
    play(rendered, 20)
    np.testing.assert_array_equal(model.bvh_aabb, boxes)
    np.testing.assert_array_equal(model.geom_group, groups)
    world, rng = not_rendered._world, np.random.default_rng(0)
    world.reset()
    for _ in range(20):
        action = rng.uniform(-1, 1, 21)
        for _ in range(2):
            world.step(action)
    np.testing.assert_array_equal(rendered._world.factors()["position"], not_rendered._world.factors()["position"])


def test_the_target_of_reacher_is_a_factor():
    env = build(task="reacher_easy")
    targets = {tuple(env.reset().info["factors"]["target"]) for _ in range(3)}
    assert len(targets) == 3
    assert env.factor_kinds["target"] == "controlled_rewarded"  # signal: the reward is no sum with its part in it


def test_turning_joints_wrap_and_others_do_not():
    cheetah, reacher = build(), build(task="reacher_easy")
    assert (np.flatnonzero(cheetah.factor_periods["position"]) == [2]).all()  # rooty; the legs' joints have limits
    np.testing.assert_allclose(np.asarray(reacher.factor_periods["position"]), [2 * np.pi, 0])
    assert cheetah.factor_periods["video_frame"] == 50 and "velocity" not in cheetah.factor_periods


def test_one_physics_can_be_seen_under_several_noises():
    env = build()
    seen = {}
    for noise in (None, 1, 2):
        env.seed(7, noise=noise)
        seen[noise] = play(env, 5)
    for noise in (1, 2):
        for plain, step in zip(seen[None], seen[noise], strict=True):
            for name in ("position", "velocity"):
                np.testing.assert_array_equal(step.info["factors"][name], plain.info["factors"][name])
            assert step.reward == plain.reward
    frames = {noise: int(steps[0].info["factors"]["video_frame"]) for noise, steps in seen.items()}
    assert len(set(frames.values())) == 3
    env.seed(8, noise=1)
    other = play(env, 5)
    assert int(other[0].info["factors"]["video_frame"]) == frames[1]
    assert (other[0].info["factors"]["position"] != seen[1][0].info["factors"]["position"]).any()


@pytest.mark.parametrize("task", ["cheetah_run", "reacher_easy"])
def test_the_robot_is_where_the_picture_changes_with_it(task):
    """Without video, what differs between two poses lies on the robot of one or the other (or on cheetah's floor)."""
    env = build(task=task, video_background=False)
    env.reset()
    before, mask = env._world.render(), env.robot_mask()
    for _ in range(5):
        env.step(np.ones(env.action_size))
    after, moved = env._world.render(), env.robot_mask()
    assert mask is not None and moved is not None
    assert 0.01 < mask.mean() < 0.3
    assert not (mask & before.background).any()
    changed = (before.rgb != after.rgb).any(-1)
    if task == "reacher_easy":  # its camera stands still
        assert changed[mask | moved].mean() > 0.3 and changed[~(mask | moved)].mean() < 0.02


def test_brightness_is_that_of_the_frame_in_a_grid():
    frames = np.zeros((2, 64, 64), np.uint8)
    frames[1, :16, 48:] = 255
    expected = np.zeros((2, 16))
    expected[1, 3] = 1
    np.testing.assert_array_equal(grid_means(frames), expected)
    assert grid_means(frames[:, :2, :2]).shape == (2, 4)


@pytest.mark.parametrize("on_reset", ["continue", "random"])
@pytest.mark.parametrize("stop", [0, 3, 10, 13])  # at a reset, in the first episode, at its end, in the second
def test_a_restored_environment_goes_on_exactly(on_reset, stop):
    noise = {"on_reset": on_reset, "noisy_sensor": True, "camera_jitter": True}
    env = shorten(build(**noise), 20)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (40, 6)).astype(np.float32)

    def go_on(env: Env, step: Step, actions: np.ndarray) -> list[Step]:
        found = []
        for action in actions:
            step = env.reset() if step.is_last else env.step(action)
            found.append(step)
        return found

    env.reset()
    first = env.reset()
    steps = [first, *go_on(env, first, actions[:stop])]
    state = json.loads(json.dumps(env.state()))
    copy = shorten(build(**noise), 20)
    current = copy.restore(state)
    assert same(current, steps[-1]) and current is not None
    assert all(map(same, go_on(copy, current, actions[stop:]), go_on(env, steps[-1], actions[stop:])))
    assert copy.state() == env.state()


@pytest.mark.parametrize("task", ["finger_turn_hard", "point_mass_hard", "quadruped_escape", "swimmer_swimmer6"])
def test_tasks_that_change_their_model_at_a_reset_are_restored_too(task):
    env = build(task=task, source="pink", action_repeat=1)
    env.reset()
    env.reset()
    for _ in range(2):
        env.step(np.ones(env.action_size))
    copy = build(task=task, action_repeat=1)
    copy.restore(env.state())
    assert same(copy.step(np.zeros(env.action_size)), env.step(np.zeros(env.action_size)))


def test_nothing_is_restored_before_the_first_reset():
    env = build()
    copy = build()
    assert copy.restore(env.state()) is None
    assert same(copy.reset(), env.reset())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "cheetah_rnu"}, "cheetah_rnu .* cheetah_run"),
        ({"task": "cup_catch"}, "ball_in_cup_catch"),
        ({"task": ""}, "no task"),
        ({"source": "/nowhere"}, "noise.source=/nowhere"),
        ({"source": "/nowhere", "video_background": False}, "noise.source=/nowhere"),
        ({"camera": 9}, "env.camera=9"),
        ({"backend": "glx"}, "render.backend=glx"),
        ({"backend": "osmesa"}, "render.backend=osmesa"),  # this process has no OpenGL
        ({"name": "atari"}, "env.name=atari"),
        ({"task": "hopper_hop", "noisy_sensor": True}, "noise.noisy_sensor=true is for .*cheetah.* not .*hopper_hop"),
        ({"video_background": False, "noisy_sensor": True}, "needs noise.video_background=true"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(changes, message):
    build()  # dm_control is imported without OpenGL from here on
    with pytest.raises(ValueError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_the_suites_colours_are_put_back():
    from dm_control.suite import common

    before = dict(common.ASSETS)
    build()
    assert before == common.ASSETS


def test_environments_need_no_jax():
    """Nor do the scripts that start workers, which import what their parent was started with."""
    root = Path(__file__).parent.parent
    code = f"""
import runpy, sys
import denoised_mdp.envs, denoised_mdp.runs.replay
for name in ("train", "evaluate", "visualize", "factorization"):
    runpy.run_path(f"{root}/scripts/{{name}}.py", run_name="__mp_main__")
assert "jax" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gymnasium_accepts_the_adapter():
    env = GymnasiumEnv(shorten(build(), 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not registered
        gymnasium.utils.env_checker.check_env(env, skip_render_check=True)
    env.reset(seed=5)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]
    assert (env.render() == env._step.observation).all()  # type: ignore[union-attr]
