"""Whether a model knows what actions do: several action sequences from one state, imagined and played for real.

Open-loop predictions along recorded actions do not show it. They are good already where a model knows which states are
good; a policy learns from the differences that its actions make *within* a state.

Shapes: T = rows of an episode, S = states, J = action sequences from each of them, H = steps, A = action.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.analysis.diagnosis import BURN_IN
from denoised_mdp.envs import AnyEnv
from denoised_mdp.model.foresight import open_loop
from denoised_mdp.model.latent import Factor

STATES, SEQUENCES = 12, 4  # of each environment
OFFSET = 0.5  # of a sequence from the policy's own actions, up or down in each dimension
HELD = 5  # steps; single steps hardly move a robot


class Outcomes(NamedTuple):
    """Sums of rewards over the steps of each sequence."""

    predicted: np.ndarray  # [S, J], r_x after the means of the priors
    earned: np.ndarray  # [S, J], in the simulator


def outcomes(agent: Agent, state: TrainState, envs: Sequence[AnyEnv], *, seed: int, steps: int) -> Outcomes:
    """Plays an episode in each environment, the first determined by `seed`, and other actions from states of it.

    These are the policy's own in the episode, moved by `OFFSET`.
    """
    found = [_outcomes(agent, state, env, seed + i, steps) for i, env in enumerate(envs)]
    return Outcomes(*(np.concatenate(sums) for sums in zip(*found, strict=True)))


def _outcomes(agent: Agent, state: TrainState, env: AnyEnv, seed: int, steps: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    x, actions, states = _episode(agent, state, env, seed)
    rows = np.unique(np.linspace(min(BURN_IN, len(actions) - steps), len(actions) - steps, STATES).astype(int))
    signs = rng.choice([-1.0, 1.0], (len(rows), SEQUENCES, -(-steps // HELD), actions.shape[-1]))
    offsets = OFFSET * np.repeat(signs, HELD, axis=2)[:, :, :steps]
    own = np.stack([actions[row : row + steps] for row in rows])[:, None]
    sequences = np.clip(own + offsets, -1.0, 1.0).astype(np.float32)  # [S, J, H, A]
    predicted = _imagined(agent, state, jax.tree.map(lambda v: v[rows], x), sequences)
    earned = np.array(
        [
            [_played(env, states[row], tried) for tried in of_state]
            for row, of_state in zip(rows, sequences, strict=True)
        ]
    )
    return Outcomes(np.asarray(predicted), earned)


def correlation(found: Outcomes) -> float:
    """Returns the correlation of both sums within states, without the states' means: 1 at best, 0 for a guess."""
    predicted, earned = (v - v.mean(axis=1, keepdims=True) for v in found)
    norm = float(np.sqrt((predicted**2).sum() * (earned**2).sum()))
    return float((predicted * earned).sum()) / norm if norm > 1e-9 else 0.0


def _episode(agent: Agent, state: TrainState, env: AnyEnv, seed: int) -> tuple[Factor, np.ndarray, list[Any]]:
    """Returns x [T, ...], the following actions [T, A] and the environment's states, of all rows but the last."""
    env.seed(seed)
    step, parameters, memory = env.reset(), agent.acting(state), agent.initial(1)
    x, actions, states = [], [], []
    while not step.is_last:
        key = jax.random.fold_in(jax.random.key(seed), len(actions))
        memory = agent.act(parameters, memory, step.observation[None], np.array([step.is_first]), key, explore=False)
        x.append(jax.tree.map(lambda v: np.asarray(v[0]), memory.latent.x))
        actions.append(np.asarray(memory.action[0]))
        states.append(env.state())
        step = env.step(actions[-1])
    return jax.tree.map(lambda *rows: np.stack(rows), *x), np.stack(actions), states


def _played(env: AnyEnv, state: Any, actions: np.ndarray) -> float:
    env.restore(state)
    earned = 0.0
    for action in actions:
        step = env.step(action)
        earned += step.reward
        if step.is_last:
            break
    return earned


@functools.partial(jax.jit, static_argnums=0)
def _imagined(agent: Agent, state: TrainState, x: Factor, sequences: jax.Array) -> jax.Array:
    x = jax.tree.map(lambda v: jnp.broadcast_to(v[:, None], (*sequences.shape[:2], v.shape[-1])), x)
    return open_loop(state.world_model, x, jnp.moveaxis(sequences, 2, 0)).sum(axis=0)
