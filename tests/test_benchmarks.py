"""The arithmetic of an update by hand and in the traced program; rows of a table. Nothing is timed."""

import json
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops, pipeline, table, update
from benchmarks.table import Row
from denoised_mdp.agent import Agent
from denoised_mdp.config.compose import compose
from denoised_mdp.model.convolutions import plain_conv

A = 6


def done_twice(config) -> int:
    """Returns the FLOP that are traced without need, and mostly not compiled.

    These are the critic's values once more, the gradient of the last of them, which is 0, the slow critic's last value,
    and the gradient of the pictures in the first convolution.
    """
    policy, model, train = config.policy, config.model, config.train
    starts = -(-train.batch_size * (train.batch_length - policy.burn_in) // policy.start_every)
    bins = 63 if policy.critic == "two_hot" else 0
    widths = [model.x.belief + model.x.state, *policy.critic_widths, bins or 1]
    layers = [n * m for n, m in pairwise(widths)]
    twice = 2 * starts * (policy.horizon * sum(layers) + 2 * sum(layers) - layers[0])
    if policy.slow_critic_weight:
        twice += 2 * starts * sum(layers)
    if policy.replay_critic_weight:
        twice += 2 * train.batch_size * (3 * sum(layers) - layers[0])
    twice = policy.critics * twice + watched(config)
    if model.encoder == "patch":
        return twice
    return twice + 2 * train.batch_size * train.batch_length * (31 * 31 * 4 * 4 * 3 * model.conv_features)


def watched(config) -> int:
    """What is computed for the metrics of `foresight.py` alone."""
    model, train = config.model, config.train
    x, y, steps = model.x.belief + model.x.state, model.y.belief + model.y.state, 10
    head_x, head_y = (sum(n * m for n, m in pairwise([part, *model.reward_widths, 1])) for part in (x, y))
    prior = (model.x.state + A) * model.x.belief + 6 * model.x.belief**2
    prior += model.x.belief**2 + model.x.belief * 2 * model.x.state
    rewards = 2 * head_x + head_y
    return 2 * train.batch_size * (train.batch_length * rewards + steps * (prior + head_x))


@pytest.mark.parametrize(
    "overrides",
    [["size=paper"], ["size=plain", "model=xyz", "model.continue_head=true"], ["size=small"]],
    ids=str,
)
def test_arithmetic_by_hand_is_the_traced_program_s(overrides):
    config = compose(overrides)
    agent = Agent(config, A)
    state = agent.shapes()
    batch = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), update.random_batches(config, A, 1))
    traced = flops.of_program(agent.train_step, state, batch, jax.random.key(0))
    assert traced == sum(flops.of_update(config, A).values()) + done_twice(config)


def test_loops_and_convolutions_are_counted_as_often_as_they_run():
    a, images, kernel, bias = np.ones((3, 3)), np.ones((2, 9, 9, 3), np.float32), jnp.ones((4, 4, 3, 5)), jnp.zeros(5)
    loop = lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=7)[0]  # noqa: E731
    assert flops.of_program(jax.jit(loop), a) == 7 * 2 * 3**3
    convolved = flops.of_program(lambda i: plain_conv(i, kernel, bias, 2, relu=True), images)
    assert convolved == 2 * (2 * 3 * 3 * 5) * (4 * 4 * 3)


def test_uncounted_learners_say_so():
    for overrides in (["policy=sac"], ["model=tia"]):
        with pytest.raises(ValueError, match="is counted only"):
            flops.of_update(compose(overrides), A)


def test_a_table_tells_what_its_json_does():
    rows = [Row("share", 0.8123456, "", "of the peak"), Row("frames", 12345), Row("egl", None, "frames/s", "not here")]
    text = table.render("update", rows)
    assert [line.split() for line in text.splitlines()] == [
        ["update"],
        ["share", "0.8123", "of", "the", "peak"],
        ["frames", "12,345"],
        ["egl", "-", "frames/s", "not", "here"],
    ]
    assert json.loads(json.dumps(table.as_json(rows)))["egl"] == {"value": None, "unit": "frames/s", "note": "not here"}


def test_time_that_two_calls_share_is_work_once():
    assert pipeline._covered([(0, 2), (1, 3), (5, 9)], 1, 6) == 3.0
