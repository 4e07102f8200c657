"""Task Informed Abstractions (TIA; Fu et al., ICML 2021), a baseline of the paper, with the parts x and y.

    x   the task's latent s+: the reward is predicted from it, and the policy sees it
    y   the distractor's s-: it is trained to carry nothing about the reward, and to explain the picture by itself

    priors      p(x'|x,a)     p(y'|y,a)         each is a world model of its own, and both see the action
    posteriors  q(x'|h_x,o)   q(y'|h_y,o)       each with its own encoder
    picture     N(m o_x + (1 - m) o_y, 1)       o_x and o_y drawn from x and y, the mask m from both decoders' outputs

An adversary, a reward head on y, is fitted before each update; y is then trained to make the adversary fail.
Shapes: T = time, B = batch, H W = image, A = action, S = width of a state, D = width of y's features.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from denoised_mdp.model import continuation
from denoised_mdp.model.balance import Balance
from denoised_mdp.model.distributions import HALF_LOG_2PI, Array, Normal, StateDistribution
from denoised_mdp.model.latent import Factor, Latent, by_name, standard_normals, zeros
from denoised_mdp.model.nets import MLP, PLAIN, Linear, States, Style
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.protocol import Batch
from denoised_mdp.model.reconstruction import one_in, pixels
from denoised_mdp.model.reward import importance
from denoised_mdp.model.transition import Posterior, Prior, scan


class Stream(nnx.Module):
    """One latent part that is predicted and filtered by itself: Dreamer's latent, with an encoder of its own."""

    def __init__(
        self,
        encoder: nnx.Module,
        *,
        belief: int,
        state: int,
        action: int,
        embedding: int,
        states: States,
        rngs: nnx.Rngs,
        style: Style = PLAIN,
    ):
        self.encoder, self.belief, self.state, self.states = encoder, belief, state, states
        self.prior = Prior(state + action, 1, belief, state, states, rngs, style=style)
        self.posterior = Posterior(belief, embedding, belief, states.outputs(state), rngs, style=style)

    def evidence(self, pictures: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, belief], what pictures add to the first layer of the posterior."""
        return self.posterior.embedding(self.encoder(pictures))

    def predict(self, part: Factor, a: jax.Array) -> tuple[jax.Array, StateDistribution]:
        """The next belief [B, N], and the prior of the next state given it."""
        return self.prior(part.belief, part.state, a)

    def infer(self, belief: jax.Array, evidence: jax.Array) -> StateDistribution:
        """The posterior of a state [B, S], given its belief and its picture."""
        return self.states(self.posterior(evidence, belief))


class Task(nnx.Module):
    """The networks learned for x."""

    def __init__(
        self,
        stream: Stream,
        *,
        reward_widths: list[int],
        continue_head: bool,
        rngs: nnx.Rngs,
        reward_output_scale: float = 1.0,
        style: Style = PLAIN,
    ):
        self.stream = stream
        width = stream.belief + stream.state
        self.reward = MLP(width, reward_widths, 1, rngs, style=style, output_scale=reward_output_scale)
        self.go_on = MLP(width, reward_widths, 1, rngs, style=style) if continue_head else None


class Distractor(nnx.Module):
    """The networks learned for y. The decoder draws the whole picture, so that y does not leave it all to x."""

    def __init__(self, stream: Stream, decoder: nnx.Module):
        self.stream, self.decoder = stream, decoder


class Layers(NamedTuple):
    """The picture before it is mixed, in the units of `pixels`."""

    x: jax.Array  # [B, H, W, 3], drawn from x
    y: jax.Array  # [B, H, W, 3], drawn from y
    mask: jax.Array  # [B, H, W, 1], the share of x, 0 to 1


class Mixer(nnx.Module):
    """Two decoders of six channels each: a picture, and an input of the mask."""

    def __init__(self, decoder_x: nnx.Module, decoder_y: nnx.Module, rngs: nnx.Rngs):
        self.decoder_x, self.decoder_y = decoder_x, decoder_y
        self.mask = Linear(6, 1, rngs)

    def __call__(self, x: Factor, y: Factor) -> Layers:
        """The layers of latents [B, ...]."""
        of_x, mask_x = jnp.split(self.decoder_x(x.features), 2, axis=-1)
        of_y, mask_y = jnp.split(self.decoder_y(y.features), 2, axis=-1)
        return Layers(of_x, of_y, jax.nn.sigmoid(self.mask(jnp.concatenate([mask_x, mask_y], axis=-1))))


class Streams(NamedTuple):
    """The transition: both streams side by side, and no other part. `Transition` documents the methods' arguments."""

    x: Stream
    y: Stream

    @property
    def belief(self) -> Latent[int]:
        return by_name(lambda part: getattr(self, part).belief if part in self._fields else 0)

    @property
    def state(self) -> Latent[int]:
        return by_name(lambda part: getattr(self, part).state if part in self._fields else 0)

    def noise(self, key: jax.Array, batch: tuple[int, ...]) -> Latent[jax.Array]:
        """Draws standard normals [batch, S] for each part."""
        return standard_normals(key, self.state, batch)

    def x_step(self, x: Factor, a: jax.Array) -> tuple[jax.Array, StateDistribution]:
        """x' ~ p(.|x, a): the next belief and prior."""
        return self.x.predict(x, a)

    def step(
        self, s: Latent[Factor], a: jax.Array, e: tuple[jax.Array, jax.Array], noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
        """Filters one observation: s' ~ q(.|s, a, o). Returns s', and q and p of every part."""
        (hx, px), (hy, py) = self.x.predict(s.x, a), self.y.predict(s.y, a)
        qx, qy = self.x.infer(hx, e[0]), self.y.infer(hy, e[1])
        absent: Latent[StateDistribution] = Latent(*(Normal(part.state, part.state) for part in s))
        following = s._replace(x=Factor(hx, qx.at(noise.x)), y=Factor(hy, qy.at(noise.y)))
        return following, absent._replace(x=qx, y=qy), absent._replace(x=px, y=py)

    def imagine_step(self, s: Latent[Factor], a: jax.Array, noise: Latent[jax.Array]) -> Latent[Factor]:
        """s' ~ p(.|s, a) for both parts."""
        (hx, px), (hy, py) = self.x.predict(s.x, a), self.y.predict(s.y, a)
        return s._replace(x=Factor(hx, px.at(noise.x)), y=Factor(hy, py.at(noise.y)))


class TIA(NamedTuple):
    """A `WorldModel`, as four sets of parameters that are learned separately."""

    task: Task
    distractor: Distractor
    mixer: Mixer
    adversary: MLP  # y's features -> reward

    @property
    def encoder(self) -> Callable[[jax.Array], jax.Array]:
        return self.task.stream.encoder

    @property
    def transition(self) -> Streams:
        return Streams(self.task.stream, self.distractor.stream)

    @property
    def reward_y(self) -> None:
        return None

    def evidence(self, observation: Array) -> tuple[jax.Array, jax.Array]:
        """Returns the contribution of pictures [B, H, W, 3] uint8 to the posteriors of x and of y."""
        pictures = pixels(observation)
        return self.task.stream.evidence(pictures), self.distractor.stream.evidence(pictures)

    def reward(self, x: Factor, y: Factor) -> jax.Array:
        """[B], the mean of p(r|x)."""
        return self.x_reward(x)

    def x_reward(self, x: Factor) -> jax.Array:
        """[B], the mean of p(r|x)."""
        return self.task.reward(x.features)[..., 0]

    def continuation(self, x: Factor) -> jax.Array:
        """[B], the probability that the episode goes on; 1 without a head."""
        return continuation.probability(self.task.go_on, x)

    def decode(self, s: Latent[Factor]) -> jax.Array:
        """[B, H, W, 3], the mean picture, in the units of `pixels`."""
        of_x, of_y, mask = self.mixer(s.x, s.y)
        return mask * of_x + (1 - mask) * of_y

    def layers(self, s: Latent[Factor]) -> OrderedDict[str, jax.Array]:
        """Returns the layers that the picture is mixed from, by title, [B, H, W, 3] each."""
        of_x, of_y, mask = self.mixer(s.x, s.y)
        white = jnp.broadcast_to(mask - 0.5, of_x.shape)
        return OrderedDict({"task: drawn from x": of_x, "distractor: drawn from y": of_y, "mask: white is x": white})

    def observe(
        self, observation: Array, action: Array, is_first: Array, noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
        """Filters sequences from a zero latent, as `DenoisedMDP.observe`: s, q and p of every part, [T, B, ...]."""
        starts = jnp.asarray(is_first).at[0].set(True)
        streams = self.transition
        initial = zeros(streams.belief, streams.state, starts.shape[1:])
        return scan(streams.step, initial, action, self.evidence(observation), starts, noise)


class Objective(NamedTuple):
    """The weights of the loss, named by the letters of TIA's paper where it has one."""

    alpha: float  # on both KL terms
    free_nats: Latent[float]  # each element of KL [T, B] counts at least this much
    reward_weight: float  # on -log p(r|x)
    lambda_radv: float  # on the adversary's log-likelihood
    lambda_os: float  # on the distractor's own picture
    balance: Balance = Balance()  # of each KL, between its prior and its posterior
    decode_every: int = 1  # an update decodes one picture in this many; 1 is TIA's
    normalize_reward: bool = False  # divides reward_weight by the variance of the batch's rewards


class Moments(NamedTuple):
    """The optimiser's moments for each set of parameters of a `TIA`."""

    task: optax.OptState
    distractor: optax.OptState
    mixer: optax.OptState
    adversary: optax.OptState


Fit = Callable[[MLP, jax.Array, Array], tuple[MLP, optax.OptState]]  # adversary, y's features [T, B, D], reward [T, B]


def model_loss(
    model: TIA, batch: Batch, noise: Latent[jax.Array], objective: Objective, fit: Fit
) -> tuple[jax.Array, tuple[Latent[Factor], tuple[MLP, optax.OptState], dict[str, jax.Array]]]:
    """Returns the losses of the task model and of the distractor in one sum, as a mean over [T, B].

        -log p(o|x,y) - w log p(r|x) + alpha KL_x                               the task model
        - lambda_Os log p(o|y) + lambda_Radv log p_adversary(r|y) + alpha KL_y  the distractor, which shares the picture

    One sum holds both, because the terms of one do not depend on the other. No gradient reaches the adversary, which
    `fit` trains on the latents of this batch.

    One picture in `decode_every` is decoded, as in `world_model.model_loss`.

    noise: standard normals [T, B, S]. Returns the loss; the filtered latents [T, B], the result of `fit`, and metrics.
    """
    o = objective
    s, q, p = model.observe(batch.observation, batch.action, batch.is_first, noise)
    kl_x, kl_y = q.x.kl(p.x), q.y.kl(p.y)  # each [T, B]
    clipped_x, clipped_y = o.balance.kl(q.x, p.x, o.free_nats.x), o.balance.kl(q.y, p.y, o.free_nats.y)
    decoded, observation = one_in((s, jnp.asarray(batch.observation)), o.decode_every)
    picture = pixels(observation)
    error = picture - model.decode(decoded)
    nll_observation = jnp.sum(_nll(error), axis=(-3, -2, -1))
    nll_distractor = jnp.sum(_nll(picture - model.distractor.decoder(decoded.y.features)), axis=(-3, -2, -1))
    if o.decode_every > 1:  # not of [T, B], but their means are those of [T, B] in expectation
        nll_observation, nll_distractor = jnp.mean(nll_observation), jnp.mean(nll_distractor)
    nll_reward = _nll(batch.reward - model.x_reward(s.x))
    fitted = jax.lax.stop_gradient(fit(*jax.lax.stop_gradient((model.adversary, s.y.features)), batch.reward))
    nll_adversary = adversary_nll(fitted[0], s.y.features, batch.reward)
    weight = o.reward_weight * importance(batch.reward, normalize=o.normalize_reward)
    task = nll_observation + weight * nll_reward + o.alpha * clipped_x
    loss = task + o.lambda_os * nll_distractor - o.lambda_radv * nll_adversary + o.alpha * clipped_y
    metrics = {
        "observation_loss": nll_observation,
        "observation_mse": jnp.mean(error**2, axis=(-3, -2, -1)),
        "distractor_observation_loss": nll_distractor,
        "reward_loss": nll_reward,
        "adversary_loss": nll_adversary,
        "kl_x": kl_x,
        "kl_y": kl_y,
        "kl_x_loss": clipped_x,
        "kl_y_loss": clipped_y,
        "kl_x_below_free_nats": (kl_x <= o.free_nats.x).astype(jnp.float32),
    }
    if model.task.go_on is not None:
        nll_continue = continuation.nll(model.task.go_on, s.x, batch.is_terminal)
        loss = loss + nll_continue
        metrics["continue_loss"] = nll_continue
    metrics = {"loss": loss} | metrics
    return jnp.mean(loss), (s, fitted, jax.tree.map(jnp.mean, metrics))


def adversary_nll(adversary: MLP, features: jax.Array, reward: Array) -> Array:
    """Returns -log p(r|y) [T, B] for y's features [T, B, D] and rewards [T, B]."""
    return _nll(reward - adversary(features)[..., 0])


def _nll(error: Array) -> Array:
    """Returns the elementwise negative log-likelihood of a Gaussian of unit variance."""
    return 0.5 * error**2 + HALF_LOG_2PI


@dataclass(frozen=True)
class TIALearner:
    """Hyperparameters of the update, and the two functions that the training step calls: `init` and `update`."""

    objective: Objective
    optimizer: Adam  # of task, distractor and mixer, each by itself: their gradients are clipped separately
    adversary_optimizer: Adam
    dissociation_steps: int

    def init(self, world_model: TIA) -> Moments:
        """Returns the moments before the first update."""
        task, distractor, mixer = map(self.optimizer.init, world_model[:3])
        return Moments(task, distractor, mixer, self.adversary_optimizer.init(world_model.adversary))

    def update(
        self, world_model: TIA, moments: Moments, batch: Batch, noise: Latent[jax.Array]
    ) -> tuple[TIA, Moments, Latent[Factor], dict[str, jax.Array]]:
        """Returns the model and its moments after one step, the latents [T, B] that the old one filtered, and metrics.

        The adversary takes `dissociation_steps` steps first; the distractor's step is against that new adversary.
        """

        def fit(adversary: MLP, features: jax.Array, reward: Array) -> tuple[MLP, optax.OptState]:
            return self.fit(adversary, moments.adversary, features, reward)

        gradients, (s, fitted, metrics) = jax.grad(model_loss, has_aux=True)(
            world_model, batch, noise, self.objective, fit
        )
        task, task_moments, task_norm = self.optimizer.step(world_model.task, gradients.task, moments.task)
        distractor, distractor_moments, distractor_norm = self.optimizer.step(
            world_model.distractor, gradients.distractor, moments.distractor
        )
        mixer, mixer_moments, _ = self.optimizer.step(world_model.mixer, gradients.mixer, moments.mixer)
        adversary, adversary_moments = fitted
        metrics |= {"grad_norm": task_norm, "distractor_grad_norm": distractor_norm}
        return (
            TIA(task, distractor, mixer, adversary),
            Moments(task_moments, distractor_moments, mixer_moments, adversary_moments),
            s,
            metrics,
        )

    def fit(
        self, adversary: MLP, moments: optax.OptState, features: jax.Array, reward: Array
    ) -> tuple[MLP, optax.OptState]:
        """Returns the adversary and its moments after `dissociation_steps` steps on fixed features of y [T, B, D]."""

        def loss(adversary: MLP) -> Array:
            return jnp.mean(adversary_nll(adversary, features, reward))

        def body(state, _):
            adversary, moments = state
            adversary, moments, _ = self.adversary_optimizer.step(adversary, jax.grad(loss)(adversary), moments)
            return (adversary, moments), None

        return jax.lax.scan(body, (adversary, moments), length=self.dissociation_steps)[0]
