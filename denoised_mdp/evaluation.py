"""Episodes of the current policy in the held-out environments: returns, and what was seen on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import scipy.stats

from denoised_mdp import checkpoint
from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.compilation import cache_programs
from denoised_mdp.config import Config
from denoised_mdp.envs import Env, make


def make_env(config: Config, *, seed: int, split: Literal["train", "eval"]) -> Env:
    """One environment of a configuration. `split` decides whose videos it shows."""
    return make(
        env=config.env.model_dump(),
        render=config.render.model_dump(),
        noise=config.noise.model_dump(),
        seed=seed,
        split=split,
    )


def evaluation_envs(config: Config, episodes: int | None = None, seed: int | None = None) -> list[Env]:
    """An environment for each episode, every one with its own fixed seed and so its own start and video."""
    first = config.evaluate.seed if seed is None else seed
    return [make_env(config, seed=first + i, split="eval") for i in range(episodes or config.evaluate.episodes)]


def load_agent(config: Config, action_size: int, path: Path) -> tuple[Agent, TrainState]:
    """The agent of a checkpoint, which needs nothing else of the run.

    Raises:
        UserError: the checkpoint does not fit the configuration.
    """
    cache_programs()
    agent = Agent(config, action_size)
    state, _ = checkpoint.load_state(path, (agent.create(jax.random.key(0)), agent.initial(1)))
    return agent, state


class Episode(NamedTuple):
    """One whole episode, T + 1 rows: row 0 is the reset, with a zero action and no reward."""

    observation: np.ndarray  # [T + 1, H, W, 3] uint8
    action: np.ndarray  # [T + 1, A], what led to the row
    reward: np.ndarray  # [T + 1]

    @property
    def episode_return(self) -> float:
        """The sum of the rewards."""
        return float(self.reward.sum())


def rollout(
    agent: Agent, state: TrainState, envs: Sequence[Env], key: jax.Array, *, seed: int, record: int = 0
) -> list[Episode]:
    """One episode in each environment, evaluation actions, the posterior sampled.

    Environment i is seeded with seed + i, so that every evaluation meets the same starts and the same video.
    The frames of the first `record` episodes are kept, of the others none: their `observation` is empty.
    """
    for i, env in enumerate(envs):
        env.seed(seed + i)
    steps = [env.reset() for env in envs]
    memory = agent.initial(len(envs))
    rows: list[list[tuple]] = [[(step.observation, np.zeros(agent.action_size, np.float32), 0.0)] for step in steps]
    running = np.ones(len(envs), bool)
    t = 0
    while running.any():
        observation = np.stack([step.observation for step in steps])
        is_first = np.array([step.is_first for step in steps])
        memory = agent.act(
            state.world_model,
            state.policy.actor,
            memory,
            observation,
            is_first,
            jax.random.fold_in(key, t),
            explore=False,
        )
        t += 1
        actions = np.asarray(memory.action)
        for i in np.flatnonzero(running).tolist():
            steps[i] = envs[i].step(actions[i])
            rows[i].append((steps[i].observation if i < record else None, actions[i], steps[i].reward))
            running[i] = not steps[i].is_last
    return [
        Episode(
            np.stack([row[0] for row in episode])
            if i < record
            else np.zeros((0, *envs[i].observation_shape), np.uint8),
            np.stack([row[1] for row in episode]),
            np.array([row[2] for row in episode], np.float32),
        )
        for i, episode in enumerate(rows)
    ]


def summary(episodes: Sequence[Episode]) -> dict[str, float]:
    """Metrics of some episodes, by the names of `metrics.py`. The interval is Student's, of the mean, at 95%."""
    returns = np.array([episode.episode_return for episode in episodes])
    stddev = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    half = float(scipy.stats.t.ppf(0.975, len(returns) - 1)) * stddev / len(returns) ** 0.5 if len(returns) > 1 else 0.0
    return {
        "evaluate/return_mean": float(returns.mean()),
        "evaluate/return_std": stddev,
        "evaluate/return_low": float(returns.mean()) - half,
        "evaluate/return_high": float(returns.mean()) + half,
        "evaluate/return_min": float(returns.min()),
        "evaluate/return_max": float(returns.max()),
        "evaluate/length_mean": float(np.mean([len(episode.reward) - 1 for episode in episodes])),
    }
