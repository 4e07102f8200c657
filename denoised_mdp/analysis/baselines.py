"""What a task pays without learning: a random policy, and one action held for good.

A learning curve says something only beside these two. No pictures are made, so an episode takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs import World

Policy = Callable[[], NDArray[np.float64]]  # the next action [A] in [-1, 1]


def episode_return(world: World, policy: Policy, *, action_repeat: int) -> float:
    """The sum of rewards of one episode, `policy` being asked every `action_repeat` control steps."""
    spec = world.action_spec()
    step, total, t, action = world.reset(), 0.0, 0, np.zeros(spec.shape)
    while not step.last():
        if t % action_repeat == 0:
            action = spec.minimum + (policy() + 1) / 2 * (spec.maximum - spec.minimum)
        step = world.step(action)
        total, t = total + float(step.reward or 0.0), t + 1
    return total


def random_returns(world: World, rng: np.random.Generator, *, episodes: int, action_repeat: int) -> NDArray[np.float64]:
    """[episodes], the returns of actions drawn uniformly, as while a replay is prefilled."""
    size = world.action_spec().shape
    returns = [
        episode_return(world, lambda: rng.uniform(-1, 1, size), action_repeat=action_repeat) for _ in range(episodes)
    ]
    return np.array(returns)


def best_constant(
    world: World, rng: np.random.Generator, *, candidates: int, episodes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best of many constant actions [A], and its returns [episodes].

    Zero, half uniform ones and half corners get an episode each; the ten best get `episodes` more, which decide.
    """
    size = world.action_spec().shape
    corners = np.sign(rng.normal(size=(candidates // 2, *size)))
    actions = [np.zeros(size), *rng.uniform(-1, 1, (candidates - candidates // 2, *size)), *corners]

    def returns(action: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        return np.array([episode_return(world, lambda: action, action_repeat=1) for _ in range(count)])

    first = [returns(action, 1)[0] for action in actions]
    finalists = [(actions[i], returns(actions[i], episodes)) for i in np.argsort(first)[-10:]]
    return max(finalists, key=lambda finalist: finalist[1].mean())
