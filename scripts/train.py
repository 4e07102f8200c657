"""Trains an agent: python scripts/train.py env.task=cheetah_run noise=video_background seed=1 run_dir=runs/try"""

from __future__ import annotations

from pathlib import Path

from denoised_mdp import cli, run_dir
from denoised_mdp.config import Config
from denoised_mdp.errors import UserError


def check(config: Config) -> None:
    """What can be found wrong before anything is written."""
    from denoised_mdp import envs
    from denoised_mdp.replay import Replay

    envs.check(name=config.env.name, task=config.env.task, backend=config.render.backend, source=config.noise.source)
    if config.replay.source is not None:
        Replay.open(config.replay.source)
        check_same_world(config, Path(config.replay.source))


def check_same_world(config: Config, source: Path) -> None:
    """Whether the run of a replay, where it is known, saw the world that this one is evaluated in."""
    folder = source if (source / run_dir.CONFIG).exists() else source.parent
    if not (folder / run_dir.CONFIG).exists():
        return
    other = run_dir.load(folder)
    found = [f"{n}: {a} -> {b}" for n, a, b in _world_differences(other, config) if a != b]
    if found:
        raise UserError(f"replay.source={source} is of another world ({', '.join(found)})")


def _world_differences(old: Config, new: Config) -> list[tuple[str, object, object]]:
    names = ["env.task", "env.image_size", "env.action_repeat", "env.camera", "noise.video_background", "noise.source"]

    def value(config: Config, name: str) -> object:
        section, key = name.split(".")
        return getattr(getattr(config, section), key)

    return [(name, value(old, name), value(new, name)) for name in names]


def main(config: Config) -> None:
    """Starts the run in `config.run_dir`, or goes on with it."""
    from denoised_mdp.loop import train

    train(config)


if __name__ == "__main__":
    cli.train(main, check=check)
