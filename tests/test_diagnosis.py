"""A diagnosis of agents that were broken on purpose, and of its figures against their definitions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp.agent import Agent
from denoised_mdp.analysis import action_effects, diagnosis
from denoised_mdp.analysis.diagnosis import HORIZON, Diagnosis, diagnose, draw, verdict
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.runs.evaluation import Episode, evaluation_envs

A, STEPS = 2, 120
SOUND = Diagnosis(
    reward_mean=0.5,
    reward_stddev=0.2,
    reward_r2=0.9,
    open_loop_r2={1: 0.9, 5: 0.8, 10: 0.7, 15: 0.6},
    y_reward_share=0.01,
    y_reward_mean=0.0,
    value_correlation=0.8,
    value_mean=42.0,
    return_mean=40.0,
    imagined_sum=7.6,
    earned_sum=7.5,
    entropy=0.1,
    saturation=0.3,
    action_spread=0.5,
    kl_x=5.0,
    kl_x_below_free_nats=0.1,
)


@pytest.fixture(scope="module")
def agent():
    return Agent(compose(["size=debug"]), A)


@pytest.fixture(scope="module")
def episodes():
    rng = np.random.default_rng(0)
    return [
        Episode(
            rng.integers(0, 256, (STEPS + 1, 64, 64, 3), dtype=np.uint8),
            rng.uniform(-1, 1, (STEPS + 1, A)).astype(np.float32),
            rng.uniform(size=STEPS + 1).astype(np.float32),
        )
        for _ in range(2)
    ]


def broken(state, **biases):
    """The state with something added to the last bias of a network."""
    networks = {
        "critic": state.policy.critic,
        "actor": state.policy.actor.net,
        "reward_x": state.world_model.reward_x,
        "reward_y": state.world_model.reward_y,
    }
    for name, shift in biases.items():
        bias = networks[name].layers[-1].bias
        bias[...] = bias[...] + jnp.asarray(shift)
    return state


def test_agents_that_were_broken_on_purpose(agent, episodes, tmp_path):
    def figures(**biases):
        return diagnose(agent, broken(agent.create(jax.random.key(0)), **biases), episodes, jax.random.key(1))

    plain, traces = figures()
    assert any("does not predict the reward" in s for s in verdict(plain))  # untrained
    json.dumps(plain.as_json(), allow_nan=False)
    draw(plain, traces, verdict(plain), "untrained").savefig(tmp_path / "diagnosis.png")

    optimist, _ = figures(critic=1000.0)
    np.testing.assert_allclose(optimist.value_mean - plain.value_mean, 1000, rtol=1e-3)
    assert any("overestimates" in s for s in verdict(optimist))
    pessimist, _ = figures(critic=-1000.0)
    assert any("underestimates" in s for s in verdict(pessimist))

    dreamer, _ = figures(reward_x=3.0)
    np.testing.assert_allclose(dreamer.imagined_sum - plain.imagined_sum, 3 * HORIZON, rtol=1e-3)
    assert any("imagined rewards sum to" in s for s in verdict(dreamer))

    shifted, _ = figures(reward_y=2.0)
    np.testing.assert_allclose(shifted.y_reward_mean - plain.y_reward_mean, 2, rtol=1e-3)
    assert any("y predicts a constant" in s for s in verdict(shifted))

    stuck, _ = figures(actor=np.repeat([100.0, -100.0], A))  # means, then standard deviations
    assert stuck.saturation == 1 and stuck.action_spread < 1e-3
    assert any("the same action in all states" in s for s in verdict(stuck))
    certain, _ = figures(actor=np.repeat([0.0, -100.0], A))
    assert certain.entropy < -3


def test_returns_are_discounted_sums_that_end_in_a_value():
    reward, last = np.random.default_rng(0).uniform(size=(4, 2)), np.array([10.0, 20.0])
    expected = [sum(0.9**k * reward[t + k] for k in range(3 - t)) + 0.9 ** (3 - t) * last for t in range(4)]
    np.testing.assert_allclose(diagnosis._discounted(reward, 0.9, last), expected)


def test_a_perfect_prediction_explains_all_and_the_mean_nothing():
    true = np.random.default_rng(0).normal(size=50)
    assert diagnosis.r2(true, true) == 1 and abs(diagnosis.r2(np.full(50, true.mean()), true)) < 1e-9


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "no fault"),
        ({"reward_stddev": 0.0}, "hardly varies"),
        ({"open_loop_r2": {1: 0.1, 5: 0.0, 10: -1.0, 15: -1.0}}, "even the next step"),
        ({"open_loop_r2": {1: 0.9, 5: 0.6, 10: 0.1, 15: -1.0}}, "for 5 steps only"),
        ({"y_reward_share": 0.4}, "40% of the reward's variance"),
        ({"value_mean": 56.0}, "overestimates by 40%"),
        ({"value_mean": 20.0}, "underestimates by 50%"),
        ({"value_correlation": 0.0}, "good states from bad"),
        ({"imagined_sum": 12.0}, "imagined rewards sum to 12.00"),
        ({"action_spread": 0.0}, "the same action"),
        ({"entropy": -5.0}, "deterministic"),
        ({"kl_x_below_free_nats": 0.95}, "learns from 5% of the steps"),
        ({"action_effect": 0.02}, "does not know what actions do"),
        ({"action_effect": 0.3}, "no fault"),
    ],
)
def test_a_verdict_names_what_is_wrong_and_nothing_else(changes, told):
    (sentence,) = verdict(SOUND._replace(**changes))
    assert told in sentence


def test_what_is_no_fault_there_is_not_called_one():
    assert "no fault" in verdict(SOUND._replace(y_reward_share=0.4), y_may_be_rewarded=True)[0]
    assert "no fault" in verdict(SOUND._replace(kl_x_below_free_nats=0.95), free_nats_on_prior=False)[0]


def test_what_cannot_be_diagnosed_says_so(agent, episodes):
    short = [Episode(*(v[:40] for v in episode)) for episode in episodes]
    with pytest.raises(UserError, match="too short"):
        diagnose(agent, agent.create(jax.random.key(0)), short, jax.random.key(1))
    sac = Agent(compose(["size=debug", "policy=sac"]), A)
    with pytest.raises(UserError, match="critic of policy=dynamics"):
        diagnose(sac, sac.create(jax.random.key(0)), episodes, jax.random.key(1))


def test_the_effects_of_actions_are_compared_within_states_alone():
    rng = np.random.default_rng(0)
    earned, of_state = rng.normal(size=(50, 4)), 100 * rng.normal(size=(50, 1))
    correlation = lambda predicted: action_effects.correlation(action_effects.Outcomes(predicted, earned + of_state))  # noqa: E731
    np.testing.assert_allclose(correlation(3 * earned - of_state), 1, rtol=1e-6)
    np.testing.assert_allclose(correlation(-earned + of_state), -1, rtol=1e-6)
    assert abs(correlation(rng.normal(size=(50, 4)) + of_state)) < 0.2
    assert correlation(0 * earned + of_state) == 0, "a model to which all actions are the same"


def test_other_actions_are_played_from_the_states_of_the_episode(monkeypatch):
    config = compose(["size=debug", "env=sunlight", "env.episode_frames=60"])
    envs = evaluation_envs(config, episodes=1, seed=5)
    agent = Agent(config, envs[0].action_size)
    state = agent.create(jax.random.key(0))
    monkeypatch.setattr(action_effects, "OFFSET", 0.0)
    same = action_effects.outcomes(agent, state, envs, seed=5, steps=15)
    assert same.predicted.shape == same.earned.shape and same.earned.shape[1] == action_effects.SEQUENCES
    _, actions, _ = action_effects._episode(agent, state, envs[0], 5)
    envs[0].seed(5)
    envs[0].reset()
    reward = np.array([envs[0].step(action).reward for action in actions])
    rows = np.unique(np.linspace(20, len(reward) - 15, action_effects.STATES).astype(int))
    expected = [reward[row : row + 15].sum() for row in rows]
    np.testing.assert_allclose(same.earned, np.repeat(np.array(expected)[:, None], action_effects.SEQUENCES, axis=1))
    np.testing.assert_allclose(np.ptp(same.predicted, axis=1), 0, atol=1e-5)

    monkeypatch.setattr(action_effects, "OFFSET", 0.5)
    other = action_effects.outcomes(agent, state, envs, seed=5, steps=15)
    assert np.all(np.ptp(other.earned, axis=1) > 0) and np.all(np.ptp(other.predicted, axis=1) > 0)
