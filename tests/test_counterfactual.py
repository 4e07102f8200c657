"""What-ifs: what is exchanged, walked or imagined changes, and nothing else does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp.agent import Agent
from denoised_mdp.analysis.counterfactual import (
    Seen,
    imagine,
    imagine_rows,
    information,
    swap,
    swap_rows,
    walk,
    walk_rows,
)
from denoised_mdp.analysis.posterior import filter_episode
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.model.protocol import WorldModel

T, A = 12, 2
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return Agent(compose(["size=debug", "model=xyz"]), A).create(KEY).world_model


@pytest.fixture(scope="module")
def episodes() -> list[Seen]:
    rng = np.random.default_rng(0)
    return [
        Seen(rng.integers(0, 256, (T, 64, 64, 3), dtype=np.uint8), rng.uniform(-1, 1, (T, A)).astype(np.float32))
        for _ in range(2)
    ]


def test_a_swap_exchanges_the_named_parts_alone(model, episodes):
    a, b = (filter_episode(model, *seen, KEY).s for seen in episodes)
    with_b, with_a = swap(a, b, "yz")
    for name, ours, theirs in (("x", a, b), ("y", b, a), ("z", b, a)):
        jax.tree.map(np.testing.assert_array_equal, getattr(with_b, name), getattr(ours, name))
        jax.tree.map(np.testing.assert_array_equal, getattr(with_a, name), getattr(theirs, name))


def test_a_walk_moves_one_number(model, episodes):
    s = jax.tree.map(lambda v: v[3], filter_episode(model, *episodes[0], KEY).s)
    walked = walk(s, "y", 1, jnp.array([-2.0, 0.0, 2.0]))
    np.testing.assert_array_equal(walked.y.state[:, 1], [-2, 0, 2])
    back = walked._replace(y=walked.y._replace(state=walked.y.state.at[:, 1].set(s.y.state[1])))
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new, np.broadcast_to(old, new.shape)), back, s)


def test_imagined_x_follows_the_actions_and_the_noise_stands_still(model, episodes):
    s = jax.tree.map(lambda v: v[3], filter_episode(model, *episodes[0], KEY).s)
    plans = [jnp.full((5, A), value) for value in (-1.0, 1.0)]
    down, up = (imagine(model, s, plan, KEY) for plan in plans)
    assert (np.asarray(down.x.belief) != np.asarray(up.x.belief)).any()
    for ahead in (down, up):
        for name in ("y", "z"):
            jax.tree.map(
                lambda new, old: np.testing.assert_array_equal(new, np.broadcast_to(old, new.shape)),
                getattr(ahead, name),
                getattr(s, name),
            )


def test_information_sums_to_the_kl(model, episodes):
    from denoised_mdp.analysis.posterior import filter_episode

    each = information(model, *episodes[0], KEY)
    kl = filter_episode(model, *episodes[0], KEY).kl
    for name in ("x", "y", "z"):
        np.testing.assert_allclose(getattr(each, name).sum(), getattr(kl, name).mean(), rtol=1e-4)


def test_rows_are_pictures_with_titles(model, episodes):
    swapped = swap_rows(model, episodes[0], episodes[1], "y", KEY)
    assert list(swapped) == ["episode A", "episode B", "A with y of B", "B with y of A"]
    walked, labels = walk_rows(model, episodes[0], "x", KEY, dimensions=[2, 0], steps=5)
    assert [title[:4] for title in walked] == ["x[2]", "x[0]"] and labels[0] == "-3.0 sd" and labels[2] == "+0.0 sd"
    plans = {"zero": np.zeros((6, A), np.float32), "long": np.ones((20, A), np.float32)}
    imagined = imagine_rows(model, episodes[0], plans, 4, KEY)
    assert list(imagined) == ["what happened", "x under zero actions", "x under long actions"]
    np.testing.assert_array_equal(imagined["what happened"], episodes[0].observation[4:10])
    for rows, length in ((swapped, T), (walked, 5), (imagined, 6)):
        assert all(p.shape == (length, 64, 64, 3) and p.dtype == np.uint8 for p in rows.values())


def test_what_a_user_gets_wrong_is_told(episodes):
    model = Agent(compose(["size=debug", "model=xy"]), A).create(KEY).world_model
    with pytest.raises(UserError, match="this model has no z"):
        swap_rows(model, episodes[0], episodes[1], "yz", KEY)
    with pytest.raises(UserError, match="this model has no z"):
        walk_rows(model, episodes[0], "z", KEY)
    with pytest.raises(UserError, match="no dimension 4, only 0 to 3"):
        walk_rows(model, episodes[0], "x", KEY, dimensions=[4])
    with pytest.raises(UserError, match="row 12: the episode has 12 rows"):
        walk_rows(model, episodes[0], "x", KEY, at=12)
    with pytest.raises(UserError, match=r"shape \(3,\), not \[T, 2\]"):
        imagine_rows(model, episodes[0], {"plan": np.zeros(3, np.float32)}, 4, KEY)
    with pytest.raises(UserError, match="context is 12"):
        imagine_rows(model, episodes[0], {"zero": np.zeros((3, A), np.float32)}, 12, KEY)
