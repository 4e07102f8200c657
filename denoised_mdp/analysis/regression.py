"""Joint-position regression, the paper's task without control (Sec. 5.1): pictures -> encoder -> MLP -> joints.

It compares a world model's encoder, frozen or trained further, with a new encoder.
Shapes: N = rows (pairs of a picture and its joints), H W = image, C = regressed columns, E = embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from denoised_mdp.analysis.recordings import Recordings
from denoised_mdp.errors import UserError
from denoised_mdp.model.nets import MLP
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.reconstruction import pixels

HEAD = [256, 256]  # Sec. B.1.1: a head of three layers, 256 hidden units
TEST_SHARE = 0.25  # of each policy's episodes
AT_ONCE = 500  # pictures in one forward pass without training
CHUNK = 10  # updates in one call, and hence batches in memory
CURVE = 20  # points of a learning curve, approximately
RESAMPLES = 1000  # of the test episodes


class Pairs(NamedTuple):
    """Pictures and the targets to predict from them."""

    observation: NDArray[np.uint8]  # [N, H, W, 3]
    columns: NDArray[np.float32]  # [N, C], each with mean 0 and variance 1 over all rows
    episode: NDArray[np.int64]  # [N], the number of each row's episode


class Split(NamedTuple):
    """Train and test rows come from different episodes: neighbouring pictures are almost the same."""

    train: dict[int, Pairs]  # by the number of rows; a smaller set is part of a larger one
    test: Pairs
    names: list[str]  # [C], of the columns
    spread: NDArray[np.float64]  # [C], the standard deviation before scaling, in radians or metres


def split(
    recordings: Recordings,
    factor: str,
    sizes: Sequence[int],
    *,
    test: int,
    elements: Sequence[int] | None = None,
    seed: int = 0,
) -> Split:
    """Draws sets with equal shares from every policy's episodes (Sec. B.1.1).

    elements: of the factor; all if None. A turning angle becomes two columns, its sine and its cosine.
    test: the most test rows; there may be fewer.

    Raises:
        UserError: there is no such factor or element, the factor does not vary, or there are too few rows or episodes.
    """
    values, names = _columns(recordings, factor, elements)
    spread = values.std(0)
    if not (moving := spread > 1e-6).any():
        raise UserError(f"factor={factor} does not vary in these episodes")
    columns = ((values - values.mean(0))[:, moving] / spread[moving]).astype(np.float32)
    episode = np.repeat(np.arange(len(recordings.episodes)), [len(r.reward) for r in recordings.episodes])
    observation = np.concatenate([recording.observation for recording in recordings.episodes])
    train_rows, test_rows = _rows_by_policy(recordings, episode, np.random.default_rng(seed))
    most = len(train_rows) * min(map(len, train_rows))
    if (largest := max(sizes)) > most:
        raise UserError(f"sizes={largest}: there are only {most} train rows with an equal share of each policy")

    def take(rows_by_policy: list[NDArray[np.int64]], count: int) -> Pairs:
        rows = np.sort(np.concatenate([rows[: max(1, count // len(rows_by_policy))] for rows in rows_by_policy]))
        return Pairs(observation[rows], columns[rows], episode[rows])

    return Split(
        train={size: take(train_rows, size) for size in sizes},
        test=take(test_rows, min(test, len(test_rows) * min(map(len, test_rows)))),
        names=[name for name, moves in zip(names, moving, strict=True) if moves],
        spread=spread[moving],
    )


def _columns(
    recordings: Recordings, factor: str, elements: Sequence[int] | None
) -> tuple[NDArray[np.float64], list[str]]:
    if factor not in recordings.kinds:
        raise UserError(f"factor={factor}: this world has no such factor, only {', '.join(recordings.kinds)}")
    factors = np.concatenate([recording.factors[factor] for recording in recordings.episodes])
    values = factors.reshape(len(factors), -1).astype(np.float64)
    chosen = range(values.shape[1]) if elements is None else elements
    if beyond := [element for element in chosen if element >= values.shape[1]]:
        raise UserError(f"elements={beyond[0]}: {factor} has only the elements 0 to {values.shape[1] - 1}")
    periods = np.broadcast_to(recordings.periods.get(factor, np.zeros(())), factors.shape[1:]).reshape(-1)
    columns = {}
    for i in chosen:
        if periods[i]:
            angle = 2 * np.pi * values[:, i] / periods[i]
            columns |= {f"sin {factor}[{i}]": np.sin(angle), f"cos {factor}[{i}]": np.cos(angle)}
        else:
            columns[f"{factor}[{i}]"] = values[:, i]
    return np.stack(list(columns.values()), -1), list(columns)


def _rows_by_policy(
    recordings: Recordings, episode: NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Returns the train and test rows of each policy, shuffled; its last episodes are for the test."""
    train, test = [], []
    made_by = np.array(recordings.about["policies"])
    for name in dict.fromkeys(made_by.tolist()):
        own = np.flatnonzero(made_by == name)
        if len(own) < 2:
            raise UserError(
                f"{len(own)} episode of the policy {name}: two are necessary, for training and for the test"
            )
        kept = max(1, round(TEST_SHARE * len(own)))
        for rows, episodes in ((train, own[:-kept]), (test, own[-kept:])):
            rows.append(rng.permutation(np.flatnonzero(np.isin(episode, episodes))))
    return train, test


class Regressor(NamedTuple):
    """The network to train. Without an encoder the inputs are embeddings already."""

    encoder: Any  # [N, H, W, 3] -> [N, E], or None
    head: MLP

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Predicts columns: [N, H, W, 3] uint8, or [N, E] -> [N, C]."""
        return self.head(inputs if self.encoder is None else self.encoder(pixels(inputs)))


@dataclass(frozen=True)
class Schedule:
    """The training of a regressor."""

    optimizer: Adam
    updates: int
    batch_size: int


class Result(NamedTuple):
    """The errors of a regressor on the test rows."""

    unexplained: float  # squared error, a mean over the columns, which have variance 1: 1 - R^2
    low: float  # the lower end of its 95% interval, over test episodes
    high: float
    mse: float  # the paper's measure: the squared error in the factor's own units, a mean over the columns
    by_column: list[float]  # [C], the unexplained share of each
    curve: list[tuple[int, float]]  # updates, unexplained share


def regress(encoder: Any, data: Split, size: int, schedule: Schedule, key: jax.Array, *, frozen: bool) -> Result:
    """Trains on the train set of a size, and tests during training and at the end.

    encoder: maps pictures [N, H, W, 3], in the units of `pixels`, to [N, E]; frozen: whether it stays unchanged.
    """
    train, test = data.train[size], data.test
    inputs, unseen = train.observation, test.observation
    if frozen:
        inputs, unseen = (np.concatenate(list(_in_pieces(_embed, encoder, pictures))) for pictures in (inputs, unseen))
    width = jax.eval_shape(_embed, encoder, train.observation[:1]).shape[-1]
    regressor = Regressor(None if frozen else encoder, MLP(width, HEAD, len(data.names), nnx.Rngs(key)))
    moments = schedule.optimizer.init(regressor)
    rng = np.random.default_rng(int(jax.random.bits(key)))
    error, curve = np.zeros(0), []
    for done in range(0, schedule.updates, CHUNK):
        rows = rng.integers(len(inputs), size=(min(CHUNK, schedule.updates - done), schedule.batch_size))
        regressor, moments = _update(regressor, moments, inputs[rows], train.columns[rows], schedule.optimizer)
        last = done + CHUNK >= schedule.updates
        if last or done // CHUNK % max(1, schedule.updates // CHUNK // CURVE) == 0:
            predicted = np.concatenate(list(_in_pieces(_apply, regressor, unseen)))
            error = (predicted - test.columns).astype(np.float64) ** 2  # [N, C]
            curve.append((done + len(rows), float(error.mean())))
    low, high = _interval(error.mean(-1), test.episode)
    by_column = error.mean(0)
    mse = float((by_column * data.spread**2).mean())
    return Result(curve[-1][1], low, high, mse, by_column.tolist(), curve)


@jax.jit
def _embed(encoder: Any, observation: jax.Array) -> jax.Array:
    return encoder(pixels(observation))


@jax.jit
def _apply(regressor: Regressor, inputs: jax.Array) -> jax.Array:
    return regressor(inputs)


def _in_pieces(function: Callable[..., jax.Array], network: Any, inputs: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(inputs), AT_ONCE):
        yield np.asarray(function(network, inputs[start : start + AT_ONCE]))


@functools.partial(jax.jit, static_argnames="optimizer")
def _update(regressor: Regressor, moments: Any, inputs: jax.Array, columns: jax.Array, optimizer: Adam):
    """Returns regressor and moments after an update on each of the batches [K, B, ...] and [K, B, C]."""

    def loss(regressor, inputs, columns):
        return jnp.mean((regressor(inputs) - columns) ** 2)

    def body(state, batch):
        regressor, moments = state
        regressor, moments, _ = optimizer.step(regressor, jax.grad(loss)(regressor, *batch), moments)
        return (regressor, moments), None

    return jax.lax.scan(body, (regressor, moments), (inputs, columns))[0]


def _interval(error: NDArray[np.float64], episode: NDArray[np.int64]) -> tuple[float, float]:
    """Returns the 95% interval of the mean error [N], from resampled episodes."""
    _, number = np.unique(episode, return_inverse=True)
    rows, total = np.bincount(number), np.bincount(number, error)
    drawn = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
    low, high = np.percentile((drawn @ total) / (drawn @ rows), [2.5, 97.5])
    return float(low), float(high)
