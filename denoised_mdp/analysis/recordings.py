"""Held-out episodes with the ground truth, under a fixed mixture of policies: the common test data of several models.

A model's own policy would make an unfair test: if it stands still, it visits too few states.
Shapes: T = rows of an episode (row 0 is the reset), H W = image, A = action.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.envs import AnyEnv, FactorKind, Step
from denoised_mdp.errors import UserError, one_line

Act = Callable[[Step], NDArray[np.float32]]  # the policy in one episode: maps a step to an action [A] in [-1, 1]
Policy = Callable[[np.random.Generator], Act]  # begins an episode

_FLIP = 0.1  # chance per step that a component of a bang-bang action changes its sign: it holds for about ten steps


class Recording(NamedTuple):
    """One whole episode with the ground truth."""

    observation: NDArray[np.uint8]  # [T, H, W, 3]
    action: NDArray[np.float32]  # [T, A], the action that led to the row; zero in row 0
    reward: NDArray[np.float32]  # [T], of that action
    factors: dict[str, NDArray[Any]]  # name -> [T, ...]
    robot: NDArray[np.bool_] | None  # [T, H, W], pixels that the agent controls; None: not requested, or unknown


class Recordings(NamedTuple):
    """The common test data of all models of one world."""

    episodes: list[Recording]  # each with its own start and noise; in `repeats` equal groups
    repeats: int  # episodes of each policy in each environment: one in each group
    pairs: list[list[Recording]]  # [physics][noise]: a row is one physics under several noises, with the same actions
    kinds: dict[str, FactorKind]  # of each factor
    periods: dict[str, NDArray[np.float64]]  # of factors that wrap, see `World.factor_periods`
    about: dict[str, Any]  # the settings of the world, the policies of the episodes, the seed: plain data


def uniform(action_size: int) -> Policy:
    """Returns a policy of independent uniform actions, as at the beginning of training."""
    return lambda rng: lambda step: rng.uniform(-1, 1, action_size).astype(np.float32)


def bang_bang(action_size: int) -> Policy:
    """Returns a policy of full force in every component, held for a while; it visits more states than uniform noise."""

    def begin(rng: np.random.Generator) -> Act:
        action = rng.choice([-1.0, 1.0], action_size)

        def act(step: Step) -> NDArray[np.float32]:
            action[rng.uniform(size=action_size) < _FLIP] *= -1
            return action.astype(np.float32)

        return act

    return begin


RANDOM: dict[str, Callable[[int], Policy]] = {"uniform": uniform, "bang_bang": bang_bang}


def trained(agent: Agent, state: TrainState) -> Policy:
    """Returns a trained policy with exploration, for more varied states (Sec. B.3 perturbs its actions too)."""
    parameters = agent.acting(state)

    def begin(rng: np.random.Generator) -> Act:
        memory = agent.initial(1)
        key = jax.random.key(int(rng.integers(2**31)))

        def act(step: Step) -> NDArray[np.float32]:
            nonlocal memory, key
            key, now = jax.random.split(key)
            memory = agent.act(
                parameters,
                memory,
                step.observation[None],
                np.array([step.is_first]),
                now,
                explore=True,
            )
            return np.asarray(memory.action[0])

        return act

    return begin


def replayed(action: NDArray[np.float32]) -> Policy:
    """Returns a policy that repeats the actions [T, A] of a recording."""

    def begin(rng: np.random.Generator) -> Act:
        rows = iter(action[1:])
        return lambda step: next(rows)

    return begin


def record(
    env: AnyEnv, policy: Policy, *, seed: int, noise: int | None = None, robot: bool = False, steps: int | None = None
) -> Recording:
    """Records one episode, a function of its seeds. `robot`: whether to record the robot's mask, a second rendering.

    steps: agent steps after which the episode is cut; None: it ends as in the world.
    """
    env.seed(seed, noise=noise)
    act = policy(np.random.default_rng(seed))
    step = env.reset()
    rows = [(step, np.zeros(env.action_size, np.float32))]
    masks = [env.robot_mask()] if robot else []
    while not step.is_last and (steps is None or len(rows) <= steps):
        action = act(step)
        step = env.step(action)
        rows.append((step, action))
        if robot:
            masks.append(env.robot_mask())
    known_masks = [mask for mask in masks if mask is not None]
    return Recording(
        observation=np.stack([step.observation for step, _ in rows]),
        action=np.stack([action for _, action in rows]),
        reward=np.array([step.reward for step, _ in rows], np.float32),
        factors={name: np.stack([step.info["factors"][name] for step, _ in rows]) for name in env.factor_kinds},
        robot=np.stack(known_masks) if known_masks else None,
    )


def collect(
    envs: Sequence[AnyEnv],
    policies: Mapping[str, Policy],
    *,
    repeats: int,
    physics: int,
    noises: int,
    seed: int,
    about: Mapping[str, Any],
    robot: bool = True,
    steps: int | None = None,
) -> Recordings:
    """Records `repeats` episodes of each policy in each environment, and `physics` x `noises` clean pairs.

    The pairs are all in the first environment, so that equal seeds give equal noise. `robot`: whether to record the
    robot's mask in the episodes; `steps`: agent steps after which each is cut, None: it ends as in the world.
    """
    turns = list(policies.items())
    both = [(env, turn) for _ in range(repeats) for env in envs for turn in turns]
    recorded = [
        record(env, policy, seed=seed + i, robot=robot, steps=steps) for i, (env, (_, policy)) in enumerate(both)
    ]
    pairs = []
    for p in range(physics):
        own = {"seed": seed + len(recorded) + p, "steps": steps}
        first = record(envs[0], turns[p % len(turns)][1], noise=seed, **own)
        others = [record(envs[0], replayed(first.action), noise=seed + n, **own) for n in range(1, noises)]
        pairs.append([first, *others])
    return Recordings(
        episodes=recorded,
        repeats=repeats,
        pairs=pairs,
        kinds=dict(envs[0].factor_kinds),
        periods={name: np.asarray(period, np.float64) for name, period in envs[0].factor_periods.items()},
        about={**about, "seed": seed, "policies": [name for _, (name, _) in both]},
    )


def save(recordings: Recordings, path: Path) -> None:
    """Writes plain arrays to an .npz for `load`; a frame of 64x64 takes 12 KB."""
    arrays = {f"periods/{name}": period for name, period in recordings.periods.items()}
    for i, recording in enumerate(recordings.episodes):
        arrays |= _arrays(recording, f"episodes/{i}")
    for p, row in enumerate(recordings.pairs):
        for n, recording in enumerate(row):
            arrays |= _arrays(recording, f"pairs/{p}/{n}")
    about = {"about": recordings.about, "kinds": recordings.kinds, "repeats": recordings.repeats}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, json=json.dumps(about), **arrays)  # pyright: ignore[reportArgumentType] taken for allow_pickle
    partial.replace(path)


def load(path: Path) -> Recordings:
    """Reads what `save` wrote.

    Raises:
        UserError: the file contains something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        header = json.loads(str(arrays.pop("json")))
        episodes = [_recording(arrays, f"episodes/{i}") for i in range(_count(arrays, "episodes"))]
        pairs = [
            [_recording(arrays, f"pairs/{p}/{n}") for n in range(_count(arrays, f"pairs/{p}"))]
            for p in range(_count(arrays, "pairs"))
        ]
        periods = {name.removeprefix("periods/"): v for name, v in arrays.items() if name.startswith("periods/")}
        return Recordings(episodes, header["repeats"], pairs, header["kinds"], periods, header["about"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no recorded episodes: {one_line(error)}") from error


def _arrays(recording: Recording, prefix: str) -> dict[str, NDArray[Any]]:
    plain = {name: getattr(recording, name) for name in ("observation", "action", "reward")}
    factors = {f"factors/{name}": values for name, values in recording.factors.items()}
    robot = {} if recording.robot is None else {"robot": recording.robot}
    return {f"{prefix}/{name}": values for name, values in (plain | factors | robot).items()}


def _recording(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Recording:
    own = {name.removeprefix(f"{prefix}/"): v for name, v in arrays.items() if name.startswith(f"{prefix}/")}
    factors = {name.removeprefix("factors/"): v for name, v in own.items() if name.startswith("factors/")}
    return Recording(own["observation"], own["action"], own["reward"], factors, own.get("robot"))


def _count(arrays: Mapping[str, NDArray[Any]], prefix: str) -> int:
    return len({name.removeprefix(f"{prefix}/").split("/")[0] for name in arrays if name.startswith(f"{prefix}/")})
