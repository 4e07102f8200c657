"""Trains an agent: python scripts/train.py env.task=cheetah_run noise=video_background seed=1 run_dir=runs/try"""

from __future__ import annotations

from denoised_mdp import cli
from denoised_mdp.config import Config


def check(config: Config) -> None:
    """What can be found wrong before anything is written."""
    from denoised_mdp import envs
    from denoised_mdp.replay import Replay

    envs.check(name=config.env.name, task=config.env.task, backend=config.render.backend, source=config.noise.source)
    if config.replay.source is not None:
        Replay.open(config.replay.source)


def main(config: Config) -> None:
    """Starts the run in `config.run_dir`, or goes on with it."""
    from denoised_mdp.loop import train

    train(config)


if __name__ == "__main__":
    cli.train(main, check=check)
