"""Runs of two updates and little else: python devices_run.py key=value ... and key=value ..., one after another."""

import sys

from denoised_mdp import errors
from denoised_mdp.config.compose import compose_seeds
from denoised_mdp.training import loop

SETTINGS = {
    "size": "debug",
    "model": "x",
    "env": "custom",
    "env.constructor": "worker_world:make",
    "train.env_steps": 60,
    "train.prefill": 59,  # the policy never acts
    "train.every": 60,
    "train.updates": 2,
    "train.batch_length": 4,
    "train.random_shift": 2,
    "policy.critics": 2,
    "model.normalize_reward": "true",
    "model.reward_variance_decay": 0.9,
    "logger.tensorboard": "false",
    "logger.progress": "false",
}

if __name__ == "__main__":
    loop.Training._evaluate = lambda self: None  # type: ignore[method-assign]
    common = [f"{name}={value}" for name, value in SETTINGS.items()]
    try:
        for overrides in " ".join(sys.argv[1:]).split(" and "):
            loop.train(*compose_seeds([*common, *overrides.split()]))
    except errors.UserError as error:
        sys.exit(f"error: {error}")
