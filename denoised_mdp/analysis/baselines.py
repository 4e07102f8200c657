"""The returns of a task without learning: of a random policy, and of one constant action.

A learning curve means something only beside these two. Nothing is rendered, so an episode takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs import World
from denoised_mdp.runs.logger import read_metrics

Policy = Callable[[], NDArray[np.float64]]  # the next action [A] in [-1, 1]


class Baselines(NamedTuple):
    """Mean returns without learning."""

    random: float
    constant: float  # the best of many constant actions
    untrained: float | None  # the run's own agent before its first update; None: the run has no such evaluation

    def verdict(self, low: float) -> tuple[bool, str]:
        """Returns whether an agent with a mean return above `low` (97.5% confidence) has learned, and a sentence."""
        candidates = {
            "a random policy": self.random,
            "the best constant action": self.constant,
            "this agent before training": self.untrained,
        }
        returns = {name: value for name, value in candidates.items() if value is not None}
        learned = low > max(returns.values())
        beside = ", ".join(f"{name} {value:.1f}" for name, value in returns.items())
        return learned, f"it has {'learned' if learned else 'not learned'}; for comparison, {beside}"


def of_run(task: str, action_repeat: int, run_dir: Path, *, episodes: int = 10, candidates: int = 50) -> Baselines:
    """Returns the baselines of a run on a task of the suite; takes seconds, as nothing is rendered."""
    world, rng = suite_world(task, seed=0), np.random.default_rng(0)
    evaluations = [line for line in read_metrics(run_dir) if "evaluate/return_mean" in line]
    untrained = [line["evaluate/return_mean"] for line in evaluations if line["env_step"] == 0]
    return Baselines(
        float(random_returns(world, rng, episodes=episodes, action_repeat=action_repeat).mean()),
        float(best_constant(world, rng, candidates=candidates, episodes=episodes)[1].mean()),
        untrained[0] if untrained else None,
    )


def suite_world(task: str, *, seed: int) -> World:
    """Returns a task of the dm_control suite, for use without pictures."""
    from denoised_mdp.envs.dmc import TASKS, DeepMindControl

    return DeepMindControl(
        *TASKS[task], seed=seed, backend="ray", quality="fast", camera=0, image_size=64, background=False
    )


def episode_return(world: World, policy: Policy, *, action_repeat: int) -> float:
    """Returns the sum of rewards of one episode, with an action of `policy` every `action_repeat` control steps."""
    spec = world.action_spec()
    step, total, t, action = world.reset(), 0.0, 0, np.zeros(spec.shape)
    while not step.last():
        if t % action_repeat == 0:
            action = spec.minimum + (policy() + 1) / 2 * (spec.maximum - spec.minimum)
        step = world.step(action)
        total, t = total + float(step.reward or 0.0), t + 1
    return total


def random_returns(world: World, rng: np.random.Generator, *, episodes: int, action_repeat: int) -> NDArray[np.float64]:
    """Returns the returns [episodes] of uniform actions, as in the prefill."""
    size = world.action_spec().shape
    returns = [
        episode_return(world, lambda: rng.uniform(-1, 1, size), action_repeat=action_repeat) for _ in range(episodes)
    ]
    return np.array(returns)


def best_constant(
    world: World, rng: np.random.Generator, *, candidates: int, episodes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the best of many constant actions [A], and its returns [episodes].

    The candidates are zero and, in equal numbers, uniform actions and corners. Each gets one episode; the ten best get
    `episodes` more, which decide.
    """
    size = world.action_spec().shape
    corners = np.sign(rng.normal(size=(candidates // 2, *size)))
    actions = [np.zeros(size), *rng.uniform(-1, 1, (candidates - candidates // 2, *size)), *corners]

    def returns(action: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        return np.array([episode_return(world, lambda: action, action_repeat=1) for _ in range(count)])

    first = [returns(action, 1)[0] for action in actions]
    finalists = [(actions[i], returns(actions[i], episodes)) for i in np.argsort(first)[-10:]]
    return max(finalists, key=lambda finalist: finalist[1].mean())
