"""Pictures of what a trained agent believes: python scripts/visualize.py run_dir=runs/try"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.config import Config, Count, Size


class Options(cli.RunOptions):
    """What a trained agent takes for signal and for noise, in held-out episodes: an mp4 and a PNG strip of each."""

    episodes: Size = Field(1, description="how many, each in an environment of its own")
    frozen_at: Count | None = Field(
        None, description="step whose latents stand in for the frozen parts; default: the middle"
    )
    context: Size | None = Field(None, description="steps seen before the open-loop prediction; default: 25")
    columns: Size = Field(8, description="moments in the PNG strip")


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Writes run_dir/visualize/<env step>-<seed>.png and .mp4 for each episode."""
    import jax

    from denoised_mdp import visualize
    from denoised_mdp.evaluation import evaluation_envs, load_agent, rollout

    envs = evaluation_envs(config, episodes=options.episodes, seed=options.seed)
    agent, state = load_agent(config, envs[0].action_size, checkpoint)
    key = jax.random.key(options.seed)
    for i, episode in enumerate(rollout(agent, state, envs, key, seed=options.seed, record=options.episodes)):
        rows = visualize.decompose(
            state.world_model,
            episode.observation,
            episode.action,
            jax.random.fold_in(key, i),
            frozen_at=options.frozen_at,
            context=options.context,
        )
        name = Path(options.run_dir) / "visualize" / f"{checkpoint.name}-seed{options.seed + i}"
        for path in visualize.write(name, rows, columns=options.columns):
            print(f"{path} (return {episode.episode_return:.1f})")


if __name__ == "__main__":
    cli.look(main, Options)
