"""Measures the returns of a trained agent in held-out environments."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.commands import diagnose
from denoised_mdp.config import Config
from denoised_mdp.config.sections import Count, Size
from denoised_mdp.errors import UserError


class Options(cli.RunOptions):
    """Measures a trained agent's returns in held-out environments; writes a JSON file with a confidence interval."""

    episodes: Size = Field(10, description="number of episodes, each in its own environment")
    workers: Count = Field(0, description="processes that run the environments; 0: this process does")
    baselines: bool = Field(False, description="also compare with agents that have not learned, and diagnose")


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Prints the summary and writes it, with every return, to run_dir/evaluation-<env step>-seed<seed>.json."""
    import jax

    if options.baselines and config.env.name != "dmc":
        raise UserError(f"baselines=true: only tasks of the dm_control suite have them, not env={config.env.name}")
    from denoised_mdp.runs import run_dir
    from denoised_mdp.runs.evaluation import evaluation_envs, load_agent, rollout, summary

    envs = evaluation_envs(config, episodes=options.episodes, seed=options.seed, workers=options.workers)
    agent, state = load_agent(config, envs[0].action_size, checkpoint)
    episodes = rollout(agent, state, envs, jax.random.key(options.seed), seed=options.seed)
    numbers = summary(episodes)
    report = {
        "env_step": int(checkpoint.name),
        "seed": options.seed,
        "render": config.render.model_dump(),
        "noise": config.noise.model_dump(),
        **{name.removeprefix("evaluate/"): value for name, value in numbers.items()},
        "returns": [episode.episode_return for episode in episodes],
    }
    path = Path(options.run_dir) / run_dir.EVALUATION.format(env_step=checkpoint.name, seed=options.seed)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"return {report['return_mean']:.1f}, 95% confidence {report['return_low']:.1f} to "
        f"{report['return_high']:.1f}, {options.episodes} episodes at env step {report['env_step']}: {path}"
    )
    if options.baselines:
        _compare(config, checkpoint, options, low=report["return_low"])


def _compare(config: Config, checkpoint: Path, options: Options, *, low: float) -> None:
    """Prints the returns without learning, and the diagnosis of an agent that does not earn more."""
    from denoised_mdp.analysis.baselines import of_run

    learned, sentence = of_run(config.env.task, config.env.action_repeat, Path(options.run_dir)).verdict(low)
    if not learned and config.policy.name == "dynamics":
        chosen = {"run_dir": options.run_dir, "checkpoint": options.checkpoint, "seed": options.seed}
        diagnose.main(config, checkpoint, diagnose.Options.model_validate(chosen))
    print(sentence)


def command() -> None:
    """The command line."""
    cli.look(main, Options)
