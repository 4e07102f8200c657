"""Finds why an agent does not learn, from its model's reward predictions, its critic's values and its policy's actions.

The agent has just played the episodes in held-out environments, so that its beliefs can be compared with the outcome.
`diagnose` measures, `verdict` puts the result into words, `draw` shows it.

Shapes: T = rows of an episode, E = episodes, H = imagined steps, S = states that imagination starts from.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.agent.critic import VALUES, value
from denoised_mdp.errors import UserError
from denoised_mdp.model.latent import Factor
from denoised_mdp.runs.evaluation import Episode

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

HORIZONS = (1, 5, 10, 15)  # reported open-loop steps
HORIZON = max(HORIZONS)
BURN_IN = 20  # first rows of an episode that are left out: the filter has seen too little there
EVERY = 5  # rows between two states that imagination starts from
SATURATED = 0.99  # an action beyond it counts as at its bound
LEAST_EFFECT = 0.15  # agents that had learned had 0.25 to 0.44


class Diagnosis(NamedTuple):
    """Figures of an agent. R2 is the explained share of a variance: 1 at best, below 0 worse than the mean."""

    reward_mean: float  # real reward per agent step
    reward_stddev: float
    reward_r2: float  # of r_x + r_y against the reward, with every picture seen
    open_loop_r2: dict[int, float]  # by number of steps without a picture: of r_x, under the recorded actions
    y_reward_share: float  # variance of r_y, as a share of the reward's
    y_reward_mean: float
    value_correlation: float  # between the value of x and the real discounted return from there
    value_mean: float
    return_mean: float  # the real discounted return from the same states
    imagined_sum: float  # of rewards over `HORIZON` steps, imagined with the policy's own actions
    earned_sum: float  # of the real rewards in the same steps
    entropy: float  # of the policy, nats per dimension of the action; 0.69 is uniform
    saturation: float  # share of the policy's actions at their bound
    action_spread: float  # standard deviation of the policy's actions over states; 0: the same action everywhere
    kl_x: float  # nats per step
    kl_x_below_free_nats: float  # share of the steps
    action_effect: float | None = None  # correlation of predicted and real differences that actions make; None: unknown

    def as_json(self) -> dict[str, Any]:
        """Returns plain numbers."""
        return self._asdict() | {"open_loop_r2": {str(k): v for k, v in self.open_loop_r2.items()}}


class Traces(NamedTuple):
    """The curves of the picture."""

    value: np.ndarray  # of states that are not too close to the episode's end for a return
    earned_return: np.ndarray
    imagined: np.ndarray  # [S], sums of rewards over `HORIZON` steps
    earned: np.ndarray  # [S]
    open_loop_r2: np.ndarray  # [HORIZON + 1], from 0 steps on


def diagnose(agent: Agent, state: TrainState, episodes: Sequence[Episode], key: jax.Array) -> tuple[Diagnosis, Traces]:
    """Returns the figures of an agent that has played these episodes; they must include their pictures.

    Raises:
        UserError: the policy has no critic of states (SAC), or the episodes are too short.
    """
    policy = agent.config.policy
    if policy.name != "dynamics":
        raise UserError(f"policy={policy.name}: a diagnosis needs the critic of policy=dynamics, which values states")
    length = min(len(episode.reward) for episode in episodes)
    if length < 2 * (BURN_IN + HORIZON):
        raise UserError(
            f"episodes of {length} steps are too short for a diagnosis: {2 * (BURN_IN + HORIZON)} are needed"
        )
    observation, action, reward = (
        np.stack([getattr(episode, name)[:length] for episode in episodes], axis=1)
        for name in ("observation", "action", "reward")
    )
    starts = np.arange(BURN_IN, length - HORIZON, EVERY)
    beliefs = jax.tree.map(np.asarray, _beliefs(agent, state, observation, action, starts, key))
    ahead = np.stack([reward[starts + step] for step in range(HORIZON + 1)])  # [H + 1, S, E]
    open_loop = np.array([r2(x, real_reward) for x, real_reward in zip(beliefs.open_loop, ahead, strict=True)])
    discounted = _discounted(reward, policy.discount, beliefs.value[-1])
    settled = slice(BURN_IN, max(BURN_IN + 1, length - round(1 / (1 - policy.discount))))
    value, real_return = beliefs.value[settled].ravel(), discounted[settled].ravel()
    imagined, real_reward = beliefs.imagined.sum(0).ravel(), ahead[1:].sum(0).ravel()
    figures = Diagnosis(
        reward_mean=float(reward[BURN_IN:].mean()),
        reward_stddev=float(reward[BURN_IN:].std()),
        reward_r2=r2((beliefs.reward_x + beliefs.reward_y)[BURN_IN:], reward[BURN_IN:]),
        open_loop_r2={step: float(open_loop[step]) for step in HORIZONS},
        y_reward_share=float(beliefs.reward_y[BURN_IN:].var() / max(float(reward[BURN_IN:].var()), 1e-12)),
        y_reward_mean=float(beliefs.reward_y[BURN_IN:].mean()),
        value_correlation=_correlation(value, real_return),
        value_mean=float(value.mean()),
        return_mean=float(real_return.mean()),
        imagined_sum=float(imagined.mean()),
        earned_sum=float(real_reward.mean()),
        entropy=float(beliefs.entropy[BURN_IN:].mean()) / action.shape[-1],
        saturation=float((np.abs(beliefs.action[BURN_IN:]) > SATURATED).mean()),
        action_spread=float(beliefs.action[BURN_IN:].reshape(-1, action.shape[-1]).std(axis=0).mean()),
        kl_x=float(beliefs.kl_x[BURN_IN:].mean()),
        kl_x_below_free_nats=float((beliefs.kl_x[BURN_IN:] <= agent.config.model.free_nats_x).mean()),
    )
    return figures, Traces(value, real_return, imagined, real_reward, open_loop)


class _Beliefs(NamedTuple):
    reward_x: jax.Array  # [T, E], with every picture seen
    reward_y: jax.Array  # [T, E]
    value: jax.Array  # [T, E]
    action: jax.Array  # [T, E, A], the policy's action without exploration
    entropy: jax.Array  # [T, E]
    kl_x: jax.Array  # [T, E]
    open_loop: jax.Array  # [H + 1, S, E], r_x after the recorded actions
    imagined: jax.Array  # [H, S, E], r_x after the policy's own actions


@functools.partial(jax.jit, static_argnums=0)
def _beliefs(agent: Agent, state: TrainState, observation, action, starts, key) -> _Beliefs:
    model, actor, policy = state.world_model, state.policy.actor, agent.config.policy
    assert policy.name == "dynamics"
    filter_key, act_key, recorded_key, own_key = jax.random.split(key, 4)
    first = jnp.zeros(action.shape[:2], bool)
    s, q, p = model.observe(observation, action, first, model.transition.noise(filter_key, first.shape))
    mode = lambda x, key: actor(x).mode(key, policy.mode_samples)  # noqa: E731
    initial = jax.tree.map(lambda v: v[starts], s.x)

    def imagine(key: jax.Array, recorded: jax.Array | None) -> jax.Array:
        def body(x: Factor, inputs):
            key, given = inputs
            act_key, state_key = jax.random.split(key)
            belief, prior = model.transition.x_step(x, mode(x, act_key) if given is None else given)
            x = Factor(belief, prior.at(jax.random.normal(state_key, prior.mean.shape)))
            return x, model.x_reward(x)

        return jax.lax.scan(body, initial, (jax.random.split(key, HORIZON), recorded))[1]

    recorded = jnp.stack([action[starts + step] for step in range(1, HORIZON + 1)])
    of_x = model.x_reward(s.x)
    noise = jax.random.normal(act_key, action.shape)
    return _Beliefs(
        reward_x=of_x,
        reward_y=model.reward(s.x, s.y) - of_x,
        value=value(VALUES[policy.critic], state.policy.critic, s.x.features),
        action=mode(s.x, act_key),
        entropy=actor(s.x).entropy(noise),
        kl_x=q.x.kl(p.x),
        open_loop=jnp.concatenate([of_x[starts][None], imagine(recorded_key, recorded)]),
        imagined=imagine(own_key, None),
    )


def r2(predicted: np.ndarray, true: np.ndarray) -> float:
    """Returns the explained share of the variance."""
    return float(1 - np.mean((predicted - true) ** 2) / max(float(np.var(true)), 1e-12))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def _discounted(reward: np.ndarray, discount: float, last_value: np.ndarray) -> np.ndarray:
    """Returns the discounted return [T, E] from each row on, with the critic's value for the last row."""
    returns = np.empty_like(reward)
    following = last_value
    for t in reversed(range(len(reward))):
        following = reward[t] + discount * following if t < len(reward) - 1 else last_value
        returns[t] = following
    return returns


def verdict(d: Diagnosis, *, free_nats_on_prior: bool = True, y_may_be_rewarded: bool = False) -> list[str]:
    """Returns the faults, the most basic first, one sentence each; or one sentence if there are none.

    free_nats_on_prior: the model's setting. y_may_be_rewarded: whether the reward depends on a noise of the world.
    """
    faults = _faults_of_model(d, free_nats_on_prior, y_may_be_rewarded) + _faults_of_policy(d)
    return faults or ["there is no fault"]


def _faults_of_model(d: Diagnosis, free_nats_on_prior: bool, y_may_be_rewarded: bool) -> list[str]:
    faults = []
    if d.reward_stddev < 1e-4:
        faults.append("the reward hardly varies in these episodes: they teach nothing yet")
    elif d.reward_r2 < 0.3:
        faults.append(f"the model does not predict the reward even from the picture (R2 {d.reward_r2:.2f})")
    else:
        predicted = [step for step in HORIZONS if d.open_loop_r2[step] >= 0.5 * d.reward_r2]
        if not predicted:
            faults.append("the model does not predict the reward of even the next step")
        elif predicted[-1] < HORIZON:
            steps = "one step" if predicted[-1] == 1 else f"{predicted[-1]} steps"
            faults.append(f"the model predicts the reward for {steps} only, but the policy learns on {HORIZON}")
    if d.action_effect is not None and d.action_effect < LEAST_EFFECT:
        faults.append(
            f"the model does not know what actions do: from one state, predicted and real rewards of {HORIZON} steps "
            f"under different actions have a correlation of {d.action_effect:.2f}"
        )
    if free_nats_on_prior and d.kl_x_below_free_nats > 0.8:
        faults.append(
            f"x's prior learns from {1 - d.kl_x_below_free_nats:.0%} of the steps: the others lie below its free nats"
        )
    if not y_may_be_rewarded and d.y_reward_share > 0.1:
        faults.append(f"y explains {d.y_reward_share:.0%} of the reward's variance, and no policy sees that")
    if abs(d.y_reward_mean) > 0.5 * max(abs(d.reward_mean), d.reward_stddev):
        faults.append(
            f"y predicts a constant part of the reward ({d.y_reward_mean:+.3f} per step, of {d.reward_mean:.3f})"
        )
    return faults


def _faults_of_policy(d: Diagnosis) -> list[str]:
    faults = []
    scale = max(abs(d.return_mean), 1e-6)
    if (error := (d.value_mean - d.return_mean) / scale) > 0.3:
        faults.append(f"the critic overestimates by {error:.0%}")
    elif error < -0.3:
        faults.append(f"the critic underestimates by {-error:.0%}")
    if d.value_correlation < 0.2:
        faults.append(
            f"the critic does not distinguish good states from bad ones (correlation {d.value_correlation:.2f})"
        )
    if d.imagined_sum > 1.3 * d.earned_sum + 0.05 * HORIZON * d.reward_stddev:
        faults.append(
            f"imagined rewards sum to {d.imagined_sum:.2f} in {HORIZON} steps, real ones to {d.earned_sum:.2f}"
        )
    if d.action_spread < 0.05:
        faults.append("the policy takes the same action in all states")
    elif d.entropy < -3:
        faults.append(f"the policy is deterministic ({d.entropy:.1f} nats per dimension), and explores by noise alone")
    return faults


def draw(d: Diagnosis, traces: Traces, sentences: Sequence[str], title: str) -> Figure:
    """Draws the open-loop prediction, the critic and imagination against the real rewards, and the verdict."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    steps = np.arange(HORIZON + 1)
    axes[0].plot(steps, np.clip(traces.open_loop_r2, -1, 1), marker="o", color="C0")
    axes[0].axhline(0, color="grey", linewidth=0.8)
    axes[0].set(xlabel="agent steps without a picture", ylabel="R2 of the reward, from x alone", ylim=(-1.05, 1.05))
    axes[0].set_title("the model's predictions")
    for axis, (believed, true, name) in zip(
        axes[1:],
        [
            (traces.value, traces.earned_return, "discounted return"),
            (traces.imagined, traces.earned, f"reward of the next {HORIZON} steps"),
        ],
        strict=True,
    ):
        axis.scatter(true, believed, s=5, alpha=0.3, color="C0", edgecolors="none")
        ends = [min(true.min(), believed.min()), max(true.max(), believed.max())]
        axis.plot(ends, ends, color="grey", linewidth=0.8)
        axis.set(xlabel=f"{name}, real", ylabel=f"{name}, predicted")
    axes[1].set_title(f"the critic's values (correlation {d.value_correlation:.2f})")
    axes[2].set_title("imagined rewards")
    figure.suptitle(f"{title}\n" + "\n".join(sentences), fontsize=11, x=0.01, horizontalalignment="left")
    return figure
