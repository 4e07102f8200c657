"""Environments of the user's, first of all those of docs/custom_environment.md."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import specs
from environments import play, same
from test_envs_video import write_images

from denoised_mdp.commands import train as train_script
from denoised_mdp.config import compose
from denoised_mdp.envs import Env, custom
from denoised_mdp.envs.render import backend
from denoised_mdp.errors import UserError
from denoised_mdp.runs.evaluation import make_env

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "custom_environment.md").read_text(), re.DOTALL)


@pytest.fixture
def documented(tmp_path, monkeypatch) -> Path:
    """A folder with the files of the page, the settings among a copy of ours."""
    shutil.copytree(compose.CONFIGS, tmp_path / "configs")
    for language, text in BLOCKS:
        if language == "python":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
        else:
            (tmp_path / "configs" / "env" / "dot.yaml").write_text(text)
    monkeypatch.setattr(compose, "CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(*overrides: str, seed: int = 0) -> Env:
    return make_env(compose.compose(overrides), seed=seed, split="train")


def build_from(constructor, *overrides: str) -> Env:
    """An environment from a function of this module, which is on the path while testing."""
    return build("env=custom", f"env.constructor={__name__}:{constructor.__name__}", *overrides)


def test_the_documented_environment_is_what_it_says(documented):
    env = build("env=dot", "env.action_repeat=2")
    assert (env.action_size, env.observation_shape, env.episode_frames) == (1, (64, 64, 3), 200)
    assert env.factor_kinds == {"place": "controlled_rewarded"}
    steps = play(env, 101)
    assert [t for t, step in enumerate(steps) if step.is_last] == [100] and not steps[100].is_terminal
    assert steps[101].is_first and steps[101].info["factors"]["place"] != steps[0].info["factors"]["place"]
    for step in steps[:5]:
        rows, columns = np.nonzero(step.observation[..., 0])
        assert abs(columns.mean() - step.info["factors"]["place"]) < 2 and abs(rows.mean() - 32) < 1
    assert compose.compose(["env=dot"]).run_dir == "runs/dot-none-xy-small-seed0"


def test_the_documented_environment_goes_on_exactly(documented):
    env, copy = build("env=dot"), build("env=dot")
    play(env, 230)
    current = copy.restore(json.loads(json.dumps(env.state())))
    assert current is not None
    for action in np.random.default_rng(3).uniform(-1, 1, (190, 1)):
        a, b = (e.reset() if current.is_last else e.step(action) for e in (env, copy))
        assert same(a, b)
        current = a
    assert not same(play(build("env=dot", seed=1), 0)[0], play(build("env=dot", seed=2), 0)[0])


def test_arguments_of_the_constructor_are_settings(documented):
    small, large = (play(build("env=dot", f"env.arguments.radius={radius}"), 0)[0] for radius in (2, 9))
    assert (large.observation > 0).sum() > 4 * (small.observation > 0).sum()
    with pytest.raises(UserError, match=r"env\.arguments\.radios"):
        build("env=dot", "env.arguments.radios=2")


@pytest.mark.skipif(not backend.works("egl"), reason="no EGL here")
def test_the_documented_dm_env_runs(documented):
    code = """
import numpy as np
from denoised_mdp.config import compose
from denoised_mdp.runs.evaluation import make_env
config = compose.compose(["env=custom", "env.constructor=walk.py:make"])
env, copy = (make_env(config, seed=0, split="train") for _ in range(2))
env.reset(), env.reset()
found = [env.step(np.full(6, 0.3)) for _ in range(3)]
assert (found[-1].observation.std() > 10) and found[-1].observation.shape == (64, 64, 3)
assert (copy.restore(env.state()).observation == found[-1].observation).all()
"""
    environment = os.environ | {"MUJOCO_GL": "egl", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], cwd=documented, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Grey(dm_env.Environment):
    """A grey picture of 20 x 30 that `random` chose, for three steps."""

    def __init__(self, random, ends, spec=None):
        self.random, self.ends = random, ends
        self.spec = spec or specs.BoundedArray((2,), np.float32, [-2, 0], [2, 10])
        self.given = []

    def reset(self):
        self.level, self.t = self.random.randint(256), 0
        return dm_env.restart(self.picture())

    def step(self, action):
        self.given.append(action)
        self.t += 1
        if self.t < 3:
            return dm_env.transition(0.5, self.picture())
        return self.ends(1.0, self.picture())

    def picture(self):
        return {"pixels": np.full((20, 30, 3), self.level, np.uint8), "other": 1.0}

    def observation_spec(self):
        raise NotImplementedError

    def action_spec(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.spec


def terminating(random):
    return Grey(random, dm_env.termination)


def truncating(random):
    return Grey(random, dm_env.truncation)


class Rendered(gymnasium.Env):
    """Its observation is no picture, its rendering is."""

    render_mode = "rgb_array"
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = int(self.np_random.integers(200))
        return np.zeros(3), {}

    def step(self, action):
        self.level += 1
        return np.zeros(3), 0.0, self.level % 7 == 0, False, {}

    def render(self):
        return np.full((64, 64, 3), self.level, np.uint8)


def rendered(random):
    return Rendered()


def test_a_dm_env_is_scaled_seeded_and_ended_as_it_ends():
    for constructor, terminal in ((terminating, True), (truncating, False)):
        env = build_from(constructor)
        steps = play(env, 3)
        assert [step.is_last for step in steps] == [False, False, False, True]
        assert steps[-1].is_terminal == terminal
        assert [step.reward for step in steps] == [0, 0.5, 0.5, 1.0]
        assert (steps[0].observation == steps[0].observation[0, 0, 0]).all()
    env.reset()
    env.step([-1, 1])
    given = env._world._env.given[-1]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(given, np.array([-2, 10], np.float32))
    assert given.dtype == np.float32
    levels = [env.reset().observation[0, 0, 0] for _ in range(8)]
    assert len(set(levels)) > 4
    again = build_from(truncating)
    play(again, 3)
    again.reset()
    assert [again.reset().observation[0, 0, 0] for _ in range(8)] == levels


def test_a_rendering_is_a_picture_too():
    steps = play(build_from(rendered), 20)
    levels = [int(step.observation[0, 0, 0]) for step in steps]
    assert np.ptp(levels) > 5
    for before, now, step in zip(levels[:-1], levels[1:], steps[1:], strict=True):
        assert step.is_first or now == before + 1
        assert step.is_terminal == (now % 7 == 0 and not step.is_first)


class Buffered(gymnasium.Env):
    """Draws into one array and returns that."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    factor_kinds = {"level": "neither"}  # noqa: RUF012

    def __init__(self):
        self.frame, self.level = np.zeros((64, 64, 3), np.uint8), np.zeros(1)

    def reset(self, *, seed=None, options=None):
        self.frame[:], self.level[:] = 0, 0
        return self.frame, {}

    def step(self, action):
        self.frame += 1
        self.level += 1
        return self.frame, 0.5, False, False, {}

    def factors(self):
        return {"level": self.level}


def buffered(random):
    return Buffered()


def test_what_an_environment_returns_is_copied():
    steps = play(build_from(buffered), 20)
    assert [int(step.observation[0, 0, 0]) for step in steps] == list(range(21))
    assert [int(step.info["factors"]["level"][0]) for step in steps] == list(range(21))


class Strict(gymnasium.Env):
    """Takes only members of its own action space."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self, low, high):
        self.action_space = gymnasium.spaces.Box(np.float32(low), np.float32(high), (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        return np.zeros((64, 64, 3), np.uint8), float(action[0]), False, False, {}


def strict(random, low, high):
    return Strict(low, high)


def test_actions_stay_within_the_bounds_of_the_environment():
    ends = [-10, -2.5, -1, -0.7, -0.1, 0, 0.1, 0.3, 1, 3.3, 100]
    for low, high in [(low, high) for low in ends for high in ends if low < high]:
        env = build_from(strict, f"env.arguments={{low:{low},high:{high}}}")
        env.reset()
        rewards = [env.step([action]).reward for action in (-1, 1, 0.123456)]
        assert rewards[:2] == pytest.approx([low, high], rel=1e-5, abs=1e-5)


class Returning(gymnasium.Env):
    """What it returns is given."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    frame = np.zeros((64, 64, 3), np.uint8)
    started: Any = (frame, None)
    stepped: Any = (frame, np.float64(0.5), np.bool_(False), False, {})
    factor_kinds: dict = {}  # noqa: RUF012
    truth: dict = {}  # noqa: RUF012

    def __init__(self, given):
        vars(self).update(given)

    def reset(self, *, seed=None, options=None):
        return self.started

    def step(self, action):
        return self.stepped

    def factors(self):
        return self.truth


FRAME, KINDS = Returning.frame, {"place": "neither"}
RETURNED = {
    "fine": ({}, None),
    "one reward": ({"stepped": (FRAME, np.array([0.5]), False, False, {})}, None),
    "old reset": ({"started": FRAME}, r"its reset returned a ndarray, and should return \(observation, info\)"),
    "old step": ({"stepped": (FRAME, 0.5, False, {})}, "its step returned 4 values, and should return"),
    "rewards": ({"stepped": (FRAME, np.array([0.5, 0.1]), False, False, {})}, r"step 1 of an episode earned array"),
    "no_reward": ({"stepped": (FRAME, None, False, False, {})}, "earned None: a reward should be one finite number"),
    "not finite": (
        {"stepped": (FRAME, float("nan"), False, False, {})},
        "earned nan: a reward should be one finite number",
    ),
    "ends": ({"stepped": (FRAME, 0.5, None, False, {})}, "terminated=None, truncated=False: each should be true or"),
    "picture": ({"stepped": (FRAME[0], 0.5, False, False, {})}, r"should be a picture, .* got uint8 \[64, 3\]"),
    "factors": ({"factor_kinds": KINDS}, "its factors.. has nothing, its factor_kinds place"),
    "factor": ({"factor_kinds": KINDS, "truth": {"place": None}}, "its factor place is array"),
}


def returning(random, which):
    return Returning(RETURNED[which][0])


@pytest.mark.parametrize("which", RETURNED)
def test_every_value_that_comes_back_is_checked_before_a_run(which, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = RETURNED[which][1]
    config = compose.compose(
        ["env=custom", f"env.constructor={__name__}:returning", f"env.arguments={{which:'{which}'}}"]
    )
    if message is None:
        train_script.check(config)
        return
    with pytest.raises(UserError, match=message) as caught:
        train_script.check(config)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def without_seed(random):
    made = Returning({})
    made.reset = lambda: Returning.started  # type: ignore[method-assign]
    return made


def test_an_error_of_the_environment_s_own_is_named_with_its_place():
    with pytest.raises(UserError, match=r"its reset: TypeError: .* argument 'seed' \(.*custom.py:\d+\)$"):
        train_script.check(compose.compose(["env=custom", f"env.constructor={__name__}:without_seed"]))


DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
import {helper}

@dataclass
class Look:
    name: str | None = None

def make(random):
    return {helper}.made(Look())
"""


@pytest.mark.parametrize("helper", ["beside", "within"])
def test_the_constructor_s_file_is_a_module_like_any_other(helper, tmp_path, monkeypatch):
    """A dataclass in it, a helper beside it, the name of another module, and as part of a package."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside.py").write_text("def made(look):\n    return look\n")
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").touch()
    (tmp_path / "kit" / "inner.py").write_text("def made(look):\n    return look\n")
    if helper == "beside":
        (tmp_path / "string.py").write_text(DATACLASS.format(helper="beside"))  # Python's own is loaded already
        load = custom.load(f"{tmp_path}/string.py:make")
    else:
        inner = DATACLASS.replace("import {helper}", "from . import inner").format(helper="inner")
        (tmp_path / "kit" / "outer.py").write_text(inner)
        load = custom.load(f"{tmp_path}/kit/outer.py:make")
    look = load(None)
    assert sys.modules[type(look).__module__].Look is type(look)  # where pickle looks for it
    assert (sys.path[-1] == str(tmp_path)) if helper == "beside" else (load.__module__ == "kit.outer")


def test_an_error_in_the_constructor_s_file_is_one_line(tmp_path):
    (tmp_path / "broken.py").write_text("import os\nos.nothing\n")
    with pytest.raises(UserError, match=r"cannot be imported: AttributeError: .* \(.*broken.py:2\)$"):
        custom.load(f"{tmp_path}/broken.py:make")


def test_a_rendering_backend_that_has_no_effect_is_refused_of_a_new_run(tmp_path):
    mine = ["env=custom", f"env.constructor={__name__}:terminating"]
    for overrides in ([*mine, "render.backend=ray"], ["env=sunlight", "render.backend=egl"]):
        config = compose.compose([*overrides, f"run_dir={tmp_path}"])
        (tmp_path / "config.yaml").unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"^render.backend=(ray|egl) has no effect on env=(custom|sunlight), which"):
            train_script.check(config)
        (tmp_path / "config.yaml").touch()  # a run that has begun goes on
        train_script.check(config)


def test_videos_that_nothing_shows_are_refused_of_a_new_run(tmp_path):
    write_images(tmp_path / "videos" / "a", 50)
    config = compose.compose(["env=sunlight", f"noise.source={tmp_path}/videos", f"run_dir={tmp_path}/run"])
    with pytest.raises(UserError, match=r"has no effect without noise\.video_background=true"):
        train_script.check(config)


def unbounded(random):
    return Grey(random, dm_env.truncation, specs.Array((2,), np.float32))


def choosing(random):
    return Grey(random, dm_env.truncation, specs.DiscreteArray(4))


class Blind(Grey):
    def picture(self):
        return {"state": 1.0}


def blind(random):
    return Blind(random, dm_env.truncation)


def nothing(random):
    return None


class OfNoKind(Grey):
    factor_kinds = {"level": "controlable"}  # noqa: RUF012


def of_no_kind(random):
    return OfNoKind(random, dm_env.truncation)


class Turning(Grey):
    factor_kinds = {"angle": "controlled_rewarded"}  # noqa: RUF012
    factor_periods = {"angle": 360}  # noqa: RUF012

    def factors(self):
        return {"angle": self.level}


def turning(random):
    return Turning(random, dm_env.truncation)


def turning_what_is_not_there(random):
    environment = turning(random)
    environment.factor_periods = {"angel": 360}
    return environment


def test_what_nobody_told_of_an_environment_is_not_made_up():
    env = build_from(turning)
    assert env.factor_periods == {"angle": 360} and env.robot_mask() is None
    assert build_from(terminating).factor_periods == {}
    angles = []
    for noise in (None, 1):
        env.seed(7, noise=noise)
        angles.append(env.reset().info["factors"]["angle"])
    assert angles[0] == angles[1]  # all its draws are those of its physics, for all we know


@pytest.mark.parametrize(
    ("constructor", "message"),
    [
        ("null", "env.constructor=None: should be a valid string"),
        ("dot", "env.constructor=dot should be package.module:function or path/to/file.py:function"),
        ("no.such:make", "env.constructor=no.such:make cannot be imported: No module named 'no'"),
        ("nowhere.py:make", r"env.constructor=nowhere.py:make cannot be imported: .*nowhere\.py"),
        (f"{__name__}:mkae", f"{__name__} has no function mkae"),
        (f"{__name__}:Grey", "does not take random and env.arguments: missing a required argument: 'ends'"),
        (f"{__name__}:nothing", "made a NoneType, no dm_env.Environment and no gymnasium.Env"),
        (f"{__name__}:unbounded", "its actions should be a vector of numbers with finite bounds, not Array"),
        (f"{__name__}:choosing", "its actions should be a vector of numbers with finite bounds, not DiscreteArray"),
        (f"{__name__}:blind", r"its observation should be a picture, .* or have one named pixels; got object \[\]"),
        (f"{__name__}:of_no_kind", "its factor_kinds level=controlable are none of controlled_rewarded, "),
        (f"{__name__}:turning_what_is_not_there", "its factor_periods angel are not in factor_kinds"),
    ],
)
def test_what_is_wrong_with_an_environment_is_one_line(constructor, message):
    with pytest.raises(UserError, match=message) as caught:
        build("env=custom", f"env.constructor='{constructor}'" if constructor != "null" else "env.task=mine")
    assert "\n" not in str(caught.value)
