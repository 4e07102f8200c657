"""Encoder, transition, decoder and reward heads; `model_loss` is the paper's Eq. 4.

`DenoisedMDP` is a `protocol.WorldModel`; `tia.py` holds another one.
Shapes: T = time, B = batch, H W = image, A = action.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from denoised_mdp.model import continuation
from denoised_mdp.model.balance import Balance
from denoised_mdp.model.distributions import HALF_LOG_2PI, Array, StateDistribution
from denoised_mdp.model.latent import NOISE_PARTS, Factor, Latent, features
from denoised_mdp.model.nets import MLP, PLAIN, Style
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.protocol import Batch
from denoised_mdp.model.reconstruction import one_in, pixels, squared_error
from denoised_mdp.model.reward import importance
from denoised_mdp.model.transition import Evidence, Transition


class Objective(NamedTuple):
    """The weights of Eq. 4, extended by free nats for each part and the split of KL_x (Appendices B.1.2, B.4)."""

    alpha: float
    beta: Latent[float]  # beta.x is 1 in the paper
    free_nats: Latent[float]  # each element of KL [T, B] counts at least this much
    beta_free_nats_x: float  # the share of beta.x whose KL has free nats; beta.x itself unless split
    reward_weight: float  # on -log p(r|x,y); 1 is the paper's
    normalize_reward: bool = False  # divides that weight by the variance of the batch's rewards
    reward_y_penalty: float = 0.0  # -log p(r_y) of a Gaussian prior on r_y; 0 is the paper's, which has none
    balance: Balance = Balance()  # of each KL, between its prior and its posterior
    decode_every: int = 1  # one picture in this many is decoded; 1 is the paper's


class DenoisedMDP(nnx.Module):
    """p(o|x,y,z), p(r|x) + p(r|y), the transition, and the encoder of the posteriors."""

    def __init__(
        self,
        encoder: nnx.Module,
        decoder: nnx.Module,
        transition: Transition,
        *,
        reward_widths: list[int],
        continue_head: bool,
        rngs: nnx.Rngs,
        reward_output_scale: float = 1.0,
        style: Style = PLAIN,
    ):
        self.encoder, self.decoder, self.transition = encoder, decoder, transition
        widths = Latent(*(n + m for n, m in zip(transition.belief, transition.state, strict=True)))

        def head(inputs: int, output_scale: float) -> MLP:
            return MLP(inputs, reward_widths, 1, rngs, style=style, output_scale=output_scale)

        self.reward_x = head(widths.x, reward_output_scale)
        self.reward_y = head(widths.y, reward_output_scale) if widths.y else None
        self.continue_x = head(widths.x, 1.0) if continue_head else None

    def evidence(self, observation: Array) -> Evidence:
        """Returns the contribution of pictures [B, H, W, 3] uint8 to the posteriors; `Transition.step` takes it."""
        return self.transition.evidence(self.encoder(pixels(observation)))

    def reward(self, x: Factor, y: Factor) -> jax.Array:
        """[B], the mean of p(r|x,y): the sum of two Gaussians' means (Appendix A.2)."""
        return self.x_reward(x) + self.y_reward(y)

    def x_reward(self, x: Factor) -> jax.Array:
        """[B], E p(r_x|x): the only reward that a policy is trained on (Algorithm 1)."""
        return self.reward_x(x.features)[..., 0]

    def y_reward(self, y: Factor) -> jax.Array:
        """[B], E p(r_y|y): the noise in the reward; 0 if there is no y."""
        return jnp.zeros(y.state.shape[:-1]) if self.reward_y is None else self.reward_y(y.features)[..., 0]

    def continuation(self, x: Factor) -> jax.Array:
        """[B], the probability that the episode goes on; 1 without a head."""
        return continuation.probability(self.continue_x, x)

    def decode(self, s: Latent[Factor]) -> jax.Array:
        """[B, H, W, 3], the mean picture, in the units of `pixels`."""
        return self.decoder(features(s))

    def layers(self, s: Latent[Factor]) -> OrderedDict[str, jax.Array]:
        """Returns the layers [B, H, W, 3] that a picture is mixed from, by title: none, one decoder sees all parts."""
        return OrderedDict()

    def observe(
        self, observation: Array, action: Array, is_first: Array, noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
        """Filters sequences from a zero latent: [T, B, H, W, 3] uint8, [T, B, A], [T, B], standard normals [T, B, S].

        Returns s, q and p of every part, [T, B, ...]. The first row has no past: its previous latent and its
        action are zero, as at an episode's start (Sec. 3).
        """
        starts = jnp.asarray(is_first).at[0].set(True)
        initial = self.transition.initial(starts.shape[1:])
        return self.transition.observe(initial, action, self.evidence(observation), starts, noise)


def model_loss(
    model: DenoisedMDP, batch: Batch, noise: Latent[jax.Array], objective: Objective
) -> tuple[jax.Array, tuple[Latent[Factor], dict[str, jax.Array]]]:
    """Eq. 4:  -log p(o|s) - log p(r|x,y) + alpha (beta_x KL_x + beta_y KL_y + beta_z KL_z), a mean over [T, B].

    The reward's term has a weight, r_y may have a prior, and with a continuation head - log p(goes on|x) is added; the
    paper has none of these. One picture in `decode_every` is decoded: the mean stays the same, because every row
    occurs in equally many sequences.

    noise: standard normals [T, B, S]. Returns the loss, the filtered latents [T, B] and metrics, in nats.
    Free nats clip each element of a KL from below; KL_x may be split into a part with and a part without them.
    """
    o = objective
    s, q, p = model.observe(batch.observation, batch.action, batch.is_first, noise)
    kl = Latent(*(q_i.kl(p_i) for q_i, p_i in zip(q, p, strict=True)))  # each [T, B]
    clipped = Latent(*map(o.balance.kl, q, p, o.free_nats))
    unclipped_x = o.balance.kl(q.x, p.x, 0.0)
    weighted_x = o.beta_free_nats_x * clipped.x + (o.beta.x - o.beta_free_nats_x) * unclipped_x
    weighted = sum((getattr(o.beta, part) * getattr(clipped, part) for part in NOISE_PARTS), start=weighted_x)
    decoded, pictures = one_in((features(s), jnp.asarray(batch.observation)), o.decode_every)
    error, size = squared_error(model.decoder, decoded, pictures), math.prod(pictures.shape[-3:])
    nll_observation = 0.5 * error + size * HALF_LOG_2PI  # unit variance; a mean over [T, B] already
    of_x, of_y = model.x_reward(s.x), model.y_reward(s.y)
    nll_reward = 0.5 * (batch.reward - (of_x + of_y)) ** 2 + HALF_LOG_2PI
    weight = o.reward_weight * importance(batch.reward, normalize=o.normalize_reward)
    of_reward = weight * (nll_reward + 0.5 * o.reward_y_penalty * of_y**2)
    loss = nll_observation + of_reward + o.alpha * weighted
    metrics = {
        "observation_loss": nll_observation,
        "observation_mse": error / size,
        "reward_loss": nll_reward,
        **{f"kl_{part}": value for part, value in kl._asdict().items()},
        **{f"kl_{part}_loss": value for part, value in clipped._asdict().items()},
        "kl_x_below_free_nats": (kl.x <= o.free_nats.x).astype(jnp.float32),
    }
    if model.continue_x is not None:
        nll_continue = continuation.nll(model.continue_x, s.x, batch.is_terminal)
        loss = loss + nll_continue
        metrics["continue_loss"] = nll_continue
    metrics = {"loss": loss} | metrics
    return jnp.mean(loss), (s, jax.tree.map(jnp.mean, metrics))


@dataclass(frozen=True)
class DenoisedLearner:
    """One optimiser on one loss."""

    objective: Objective
    optimizer: Adam

    def init(self, world_model: DenoisedMDP) -> optax.OptState:
        """Returns the optimiser's moments before the first update."""
        return self.optimizer.init(world_model)

    def update(
        self, world_model: DenoisedMDP, moments: optax.OptState, batch: Batch, noise: Latent[jax.Array]
    ) -> tuple[DenoisedMDP, optax.OptState, Latent[Factor], dict[str, jax.Array]]:
        """Returns model and moments after one step, the latents [T, B] that the old model filtered, and metrics."""
        gradients, (s, metrics) = jax.grad(model_loss, has_aux=True)(world_model, batch, noise, self.objective)
        world_model, moments, norm = self.optimizer.step(world_model, gradients, moments)
        return world_model, moments, s, metrics | {"grad_norm": norm}
