"""The returns of a task without learning."""

from __future__ import annotations

import argparse
import json

import numpy as np

from denoised_mdp import envs
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError, at_least, output


def command() -> None:
    """Prints, and writes on request, the returns of the random policy and of the best constant action."""
    parser = argparse.ArgumentParser(
        description="Measures the returns of a random policy and the best constant action."
    )
    parser.add_argument("task", help="a task of the dm_control suite, such as walker_walk")
    parser.add_argument("--action-repeat", type=at_least(1), default=2, help="frames per random action (default 2)")
    parser.add_argument("--episodes", type=at_least(1), default=20, help="per policy (default 20)")
    parser.add_argument("--candidates", type=at_least(1), default=200, help="constant actions to try (default 200)")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--out", type=output(), help="a JSON file to write")
    options = parser.parse_args()
    try:
        env = {"name": "dmc", "task": options.task, "image_size": 64}
        envs.check(env=env, render={"backend": "ray"}, noise=compose(["noise=none"]).noise.model_dump())
    except UserError as error:
        parser.exit(2, f"error: {error}\n")

    from denoised_mdp.analysis import baselines

    world = baselines.suite_world(options.task, seed=options.seed)
    rng = np.random.default_rng(options.seed)
    random = baselines.random_returns(world, rng, episodes=options.episodes, action_repeat=options.action_repeat)
    action, constant = baselines.best_constant(world, rng, candidates=options.candidates, episodes=options.episodes)
    report = {
        "task": options.task,
        "action_repeat": options.action_repeat,
        "random_mean": random.mean(),
        "random_returns": random.tolist(),
        "best_constant_mean": constant.mean(),
        "best_constant_action": action.tolist(),
        "best_constant_returns": constant.tolist(),
        "constants_tried": options.candidates + 1,
    }
    print(f"{options.task}: random policy {random.mean():.1f}, best constant action {constant.mean():.1f}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
