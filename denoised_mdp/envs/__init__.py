"""Worlds seen through pixels: `make` one, `reset` it, `step` it. Nothing here needs jax.

env = make(env={"name": "dmc", "task": "cheetah_run", ...}, render={...}, noise={...}, seed=0, split="train")
step = env.reset()
while not step.is_last:
    step = env.step(policy(step.observation))

build              from plain settings to an environment
env                its outside: the agent's view, one agent step at a time
world              its inside: one control step of a simulator at a time
dmc                the tasks of the dm_control suite
custom             any dm_env or gymnasium environment with pictures
robodesk/          an arm at a desk
sunlight/          the paper's opening example, with a known correct factorization
noise/             distractors, each around a world
video/             clips for backgrounds
render/            pictures of a simulator, through OpenGL or without it
workers            environments in worker processes
gymnasium_adapter  our environments for code that expects gymnasium's interface
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
