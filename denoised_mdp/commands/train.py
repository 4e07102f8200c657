"""Trains an agent."""

from __future__ import annotations

from pathlib import Path

from denoised_mdp import cli
from denoised_mdp.config import Config
from denoised_mdp.errors import UserError
from denoised_mdp.runs import run_dir, sources


def check(config: Config) -> None:
    """Checks a configuration as far as possible before anything is written."""
    from denoised_mdp import envs
    from denoised_mdp.runs.replay import Replay

    envs.check(env=config.env.model_dump(), render=config.render.model_dump(), noise=config.noise.model_dump())
    refuse_without_effect(config)
    envs.try_out(env=config.env.model_dump(), render=config.render.model_dump(), noise=config.noise.model_dump())
    if config.replay.source is not None:
        Replay.open(config.replay.source)
        check_same_world(config, Path(config.replay.source))


def refuse_without_effect(config: Config) -> None:
    """Rejects settings of a new run that would change nothing."""
    from denoised_mdp.envs.video import PROCEDURAL

    if (Path(config.run_dir) / run_dir.CONFIG).exists():
        return
    backend, name, noise = config.render.backend, config.env.name, config.noise
    if (name == "custom" and backend == "ray") or (name == "sunlight" and backend != "auto"):
        raise UserError(
            f"render.backend={backend} has no effect on env={name}, which draws its own pictures: leave it out"
        )
    if noise.video_colour and not noise.video_background:
        raise UserError("noise.video_colour=true has no effect without noise.video_background=true: leave it out")
    if noise.source not in PROCEDURAL and not (noise.video_background or noise.television):
        raise UserError(
            f"noise.source={noise.source} has no effect without noise.video_background=true (env=dmc) or "
            "noise.television=true (env=robodesk): add one, or leave it out"
        )


def check_same_world(config: Config, source: Path) -> None:
    """Checks that the source of a replay, if it is known, had the same world as this run's evaluation."""
    folder = source if (source / run_dir.CONFIG).exists() else source.parent
    if not (folder / run_dir.CONFIG).exists():
        return
    different = sources.differences(folder, run_dir.load(folder), config)
    found = [d for d in different if d.startswith(("env.", "noise."))]
    if found:
        raise UserError(f"replay.source={source} comes from another world ({', '.join(found)})")


def main(*configs: Config) -> None:
    """Starts or resumes the run in `config.run_dir`; several seeds together."""
    from denoised_mdp.training.loop import train

    train(*configs)


def command() -> None:
    """The command line."""
    cli.train(main, check=check)
