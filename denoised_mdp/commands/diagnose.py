"""Reports why an agent does not learn."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.config import Config
from denoised_mdp.config.sections import Size


class Options(cli.RunOptions):
    """Measures an agent's model, critic and policy in new episodes; writes a verdict, a picture and a JSON file."""

    episodes: Size = Field(4, description="number of episodes, each in its own environment")


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Prints the verdict and writes run_dir/diagnosis-<env step>.png and .json."""
    import jax

    from denoised_mdp.analysis import action_effects, diagnosis
    from denoised_mdp.runs.evaluation import evaluation_envs, load_agent, rollout

    envs = evaluation_envs(config, episodes=options.episodes, seed=options.seed)
    agent, state = load_agent(config, envs[0].action_size, checkpoint)
    key = jax.random.key(options.seed)
    episodes = rollout(agent, state, envs, key, seed=options.seed, record=options.episodes)
    figures, traces = diagnosis.diagnose(agent, state, episodes, key)
    tried = action_effects.outcomes(agent, state, envs, seed=options.seed, steps=diagnosis.HORIZON)
    figures = figures._replace(action_effect=action_effects.correlation(tried))
    sentences = diagnosis.verdict(
        figures,
        free_nats_on_prior=config.model.free_nats_on_prior,
        y_may_be_rewarded=config.noise.noisy_sensor or config.env.name != "dmc",
    )
    mean_return = sum(episode.episode_return for episode in episodes) / len(episodes)
    path = Path(options.run_dir) / f"diagnosis-{checkpoint.name}"
    title = f"{config.env.task}, env step {int(checkpoint.name)}: return {mean_return:.1f} on {len(episodes)} episodes"
    diagnosis.draw(figures, traces, sentences, title).savefig(path.with_suffix(".png"), dpi=110)
    report = {"env_step": int(checkpoint.name), "return": mean_return, "verdict": sentences, **figures.as_json()}
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(title)
    for sentence in sentences:
        print(f"  {sentence}")
    print(path.with_suffix(".png"))


def command() -> None:
    """The command line."""
    cli.look(main, Options)
