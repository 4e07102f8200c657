"""Draws a trained agent's signal and noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.config import Config
from denoised_mdp.config.sections import Count, NoiseParts, PartName, Place, Size
from denoised_mdp.errors import UserError

if TYPE_CHECKING:
    import jax
    import numpy as np

    from denoised_mdp.model.protocol import WorldModel
    from denoised_mdp.runs.evaluation import Episode


class Options(cli.RunOptions):
    """Draws a trained agent's signal and noise in held-out episodes: an mp4 and a PNG strip of each."""

    episodes: Size = Field(1, description="number of episodes, each in its own environment")
    frozen_at: Count | None = Field(
        None, description="step whose latents replace the frozen parts, or are walked; default: the middle"
    )
    context: Size | None = Field(None, description="observed steps before the open-loop prediction; default: 25")
    columns: Size = Field(8, description="frames in the PNG strip")
    swap: NoiseParts | None = Field(
        None, description="also exchange these parts of the noise between an episode and the next one, step by step"
    )
    walk: PartName | None = Field(
        None, description="also walk single dimensions of this part's state, from -3 to 3 standard deviations"
    )
    dimensions: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None, description="dimensions to walk; default: the six with the most information"
    )
    imagine: Annotated[list[Place], Field(min_length=1)] | None = Field(
        None, description="also imagine x with the noise frozen, under actions: recorded, zero, reversed, or FILE.npy"
    )


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Writes run_dir/visualize/<env step>-seed<seed>.png and .mp4 for each episode, and for each requested extra."""
    import jax

    from denoised_mdp.analysis import visualize
    from denoised_mdp.runs.evaluation import evaluation_envs, load_agent, rollout

    if options.swap and options.episodes < 2:
        raise UserError("swap needs two episodes to exchange between: episodes=2")
    envs = evaluation_envs(config, episodes=options.episodes, seed=options.seed)
    agent, state = load_agent(config, envs[0].action_size, checkpoint)
    key = jax.random.key(options.seed)
    episodes = rollout(agent, state, envs, key, seed=options.seed, record=options.episodes)
    for i, episode in enumerate(episodes):
        own_key = jax.random.fold_in(key, i)
        rows = visualize.decompose(
            state.world_model,
            episode.observation,
            episode.action,
            own_key,
            frozen_at=options.frozen_at,
            context=options.context,
        )
        name = Path(options.run_dir) / "visualize" / f"{checkpoint.name}-seed{options.seed + i}"
        for path in visualize.write(name, rows, columns=options.columns):
            print(f"{path} (return {episode.episode_return:.1f})")
        other = episodes[i + 1] if i + 1 < len(episodes) else None
        for what, pictures, labels in counterfactuals(state.world_model, episode, other, options, own_key):
            for path in visualize.write(
                name.with_name(f"{name.name}-{what}"), pictures, columns=options.columns, labels=labels
            ):
                print(path)


def counterfactuals(
    world_model: WorldModel, episode: Episode, other: Episode | None, options: Options, key: jax.Array
) -> Iterator[tuple[str, dict[str, np.ndarray], list[str] | None]]:
    """Yields each requested extra: a name, rows of pictures by title, and column labels if they are not steps."""
    from denoised_mdp.analysis import counterfactual

    seen = counterfactual.Seen(episode.observation, episode.action)
    if options.swap and other is not None:
        second = counterfactual.Seen(other.observation, other.action)
        yield f"swap_{options.swap}", counterfactual.swap_rows(world_model, seen, second, options.swap, key), None
    if options.walk:
        rows, labels = counterfactual.walk_rows(
            world_model,
            seen,
            options.walk,
            key,
            dimensions=options.dimensions,
            at=options.frozen_at,
            steps=options.columns,
        )
        yield f"walk_{options.walk}", rows, labels
    if options.imagine:
        context = options.context or min(25, len(episode.action) // 2)
        recorded = episode.action[context:]
        plans = {Path(name).stem: counterfactual.actions(name, recorded) for name in options.imagine}
        yield "imagine", counterfactual.imagine_rows(world_model, seen, plans, context, key), None


def command() -> None:
    """The command line."""
    cli.look(main, Options)
