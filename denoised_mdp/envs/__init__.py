"""Worlds seen through pixels: `make` one, `reset` it, `step` it. Nothing here needs jax.

env = make(env={"name": "dmc", "task": "cheetah_run", ...}, render={...}, noise={...}, seed=0, split="train")
step = env.reset()
while not step.is_last:
    step = env.step(policy(step.observation))
"""

from denoised_mdp.envs.build import ENVIRONMENTS, check, make, try_out
from denoised_mdp.envs.env import Env, Step
from denoised_mdp.envs.render import QUALITIES
from denoised_mdp.envs.render.backend import BACKENDS
from denoised_mdp.envs.workers import AnyEnv, make_all, reset_all, step_all
from denoised_mdp.envs.world import FACTOR_KINDS, FactorKind, Picture, World

__all__ = [
    "BACKENDS",
    "ENVIRONMENTS",
    "FACTOR_KINDS",
    "QUALITIES",
    "AnyEnv",
    "Env",
    "FactorKind",
    "Picture",
    "Step",
    "World",
    "check",
    "make",
    "make_all",
    "reset_all",
    "step_all",
    "try_out",
]
