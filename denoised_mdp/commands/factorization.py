"""Measures how well a trained model separates signal from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.config.schema import Config, Place, Size


class Options(cli.RunOptions):
    """Measures the true factors in each latent part, in held-out episodes; writes factorization.json, .md and .png."""

    data: Place | None = Field(
        None, description="a file of recorded episodes, the same for several models; written if it is missing"
    )
    repeats: Annotated[int, Field(ge=2)] = Field(2, description="episodes to record of each policy in each environment")
    policies: Annotated[list[Place], Field(min_length=1)] = Field(
        ["uniform", "bang_bang", "self"],
        description="policies for the recording: uniform, bang_bang, self, or folders of other runs",
    )
    clips: Size = Field(4, description="environments to record in, each with its own video and start")
    physics: Annotated[int, Field(ge=2)] = Field(4, description="clean pairs: number of episodes to repeat")
    noises: Annotated[int, Field(ge=2)] = Field(2, description="clean pairs: number of noises for each episode")
    out: Place | None = Field(None, description="the folder to write to; default: the run's")


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
    folder = Path(options.out or options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = report.write(folder, about | found)
    for name, title in report.HEADLINE.items():
        print(f"{title}: {report.told(found['headline'][name])}")
    for alarm in found["alarms"]:
        print(f"ALARM, {alarm['name']}: {alarm['text']}")
    print(*paths, sep="\n")


def command() -> None:
    """The command line."""
    cli.look(main, Options)
