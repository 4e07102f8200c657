"""Measures how well a trained model separates signal from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.config import Config


class Options(cli.RecordingOptions):
    """Measures the true factors in each latent part, in held-out episodes; writes factorization.json, .md and .png."""

    repeats: Annotated[int, Field(ge=2)] = Field(2, description="episodes to record of each policy in each environment")
    physics: Annotated[int, Field(ge=2)] = Field(4, description="clean pairs: number of episodes to repeat")
    noises: Annotated[int, Field(ge=2)] = Field(2, description="clean pairs: number of noises for each episode")


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Measures, writes the report and prints its headline."""
    import jax

    from denoised_mdp.analysis.factorization import report
    from denoised_mdp.analysis.factorization.measure import measure
    from denoised_mdp.analysis.obtain import obtain

    state, episodes = obtain(
        config,
        checkpoint,
        data=options.data,
        policies=options.policies,
        repeats=options.repeats,
        clips=options.clips,
        seed=options.seed,
        physics=options.physics,
        noises=options.noises,
        robot=True,
    )
    found = measure(state.world_model, episodes, jax.random.key(options.seed))
    about = {
        "title": f"{config.env.task}, model={config.model.name}, seed {config.seed}, env step {int(checkpoint.name)}",
        "run_dir": options.run_dir,
        "env_step": int(checkpoint.name),
        "seed": config.seed,
        "model": config.model.model_dump(),
    }
    paths = report.write(options.folder(), about | found)
    for name, title in report.HEADLINE.items():
        print(f"{title}: {report.estimate_text(found['headline'][name])}")
    for alarm in found["alarms"]:
        print(f"ALARM, {alarm['name']}: {alarm['text']}")
    print(*paths, sep="\n")


def command() -> None:
    """The command line."""
    cli.look(main, Options)
