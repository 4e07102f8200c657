"""Episodes of the current policy in the held-out environments: their returns, and their frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import scipy.stats

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.config import Config
from denoised_mdp.envs import AnyEnv, Env, make, make_all, reset_all, step_all
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.compilation import cache_programs


def make_env(config: Config, *, seed: int, split: Literal["train", "eval"]) -> Env:
    """Returns one environment of a configuration. `split` selects the videos for training or for evaluation."""
    return make(
        env=config.env.model_dump(),
        render=config.render.model_dump(),
        noise=config.noise.model_dump(),
        seed=seed,
        split=split,
    )


def training_envs(config: Config) -> list[AnyEnv]:
    """Returns the environments that collect. The first has the run's seed, the others have seeds unique to the run."""
    others = [int(np.random.SeedSequence((config.seed, i)).generate_state(1)[0]) for i in range(1, config.train.envs)]
    return _make_envs(config, [config.seed, *others], "train", config.train.workers)


def evaluation_envs(
    config: Config, episodes: int | None = None, seed: int | None = None, workers: int | None = None
) -> list[AnyEnv]:
    """Returns one environment per episode; each has its own fixed seed, and hence its own start and video."""
    first = config.evaluate.seed if seed is None else seed
    seeds = range(first, first + (episodes or config.evaluate.episodes))
    return _make_envs(config, seeds, "eval", config.evaluate.workers if workers is None else workers)


def _make_envs(config: Config, seeds: Sequence[int], split: Literal["train", "eval"], workers: int) -> list[AnyEnv]:
    return make_all(
        env=config.env.model_dump(),
        render=config.render.model_dump(),
        noise=config.noise.model_dump(),
        seeds=seeds,
        split=split,
        workers=workers,
    )


def load_agent(config: Config, action_size: int, path: Path) -> tuple[Agent, TrainState]:
    """Loads the agent of a checkpoint; reads no other file of the run.

    Raises:
        UserError: the checkpoint does not fit the configuration.
    """
    cache_programs()
    agent = Agent(config, action_size)
    state, _ = checkpoint.load_state(path, (agent.shapes(), agent.initial(config.train.envs)))
    return agent, state


class Trained(NamedTuple):
    """A run's configuration, the functions of its agent, and the learned state."""

    config: Config
    agent: Agent
    state: TrainState


def load(folder: str | Path, which: str = "latest") -> Trained:
    """Loads the agent of a run from its latest checkpoint, or from that of an env step. It makes no environment.

    Raises:
        UserError: there is no run, no such checkpoint, or the checkpoint does not fit the run's configuration.
    """
    config, path = run_dir.load(Path(folder)), run_dir.checkpoint(Path(folder), which)
    action_size = checkpoint.shape(path, "1/action")[-1]  # the last action in the agent's memory
    return Trained(config, *load_agent(config, action_size, path))


class Episode(NamedTuple):
    """One whole episode, T + 1 rows: row 0 is the reset, with a zero action and no reward."""

    observation: np.ndarray  # [T + 1, H, W, 3] uint8
    action: np.ndarray  # [T + 1, A], the action that led to the row
    reward: np.ndarray  # [T + 1]

    @property
    def episode_return(self) -> float:
        """The sum of the rewards."""
        return float(self.reward.sum())


def rollout(
    agent: Agent, state: TrainState, envs: Sequence[AnyEnv], key: jax.Array, *, seed: int, record: int = 0
) -> list[Episode]:
    """Runs one episode in each environment, with evaluation actions and a sampled posterior.

    Environment i is seeded with seed + i, so that every evaluation has the same starts and the same videos.
    Only the first `record` episodes keep their frames; the `observation` of the others is empty.
    """
    for i, env in enumerate(envs):
        env.seed(seed + i)
    steps = reset_all(envs, range(len(envs)))
    parameters, memory = agent.acting(state), agent.initial(len(envs))
    rows: list[list[tuple]] = [
        [(step.observation, np.zeros(agent.action_size, np.float32), 0.0)] for step in steps.values()
    ]
    running = np.ones(len(envs), bool)
    t = 0
    while running.any():
        observation = np.stack([step.observation for step in steps.values()])
        is_first = np.array([step.is_first for step in steps.values()])
        memory = agent.act(parameters, memory, observation, is_first, jax.random.fold_in(key, t), explore=False)
        t += 1
        actions = np.asarray(memory.action)
        for i, step in step_all(envs, {i: actions[i] for i in np.flatnonzero(running).tolist()}).items():
            steps[i] = step
            rows[i].append((step.observation if i < record else None, actions[i], step.reward))
            running[i] = not step.is_last
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
    """Returns metrics of some episodes, named as in `metrics.py`. The interval is Student's, 95%, for the mean."""
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
