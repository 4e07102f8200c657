"""Imports the authors' weights as a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from denoised_mdp.config import Config
from denoised_mdp.config.sections import PART_NAMES
from denoised_mdp.errors import UserError, expanded


def command() -> None:
    """Writes a run that can be evaluated and visualized, and prints its contents."""
    parser = argparse.ArgumentParser(
        description="Makes a run from weights of the authors' PyTorch code, for evaluation and analysis. It cannot be "
        "trained further, because the weights come without a replay.",
        epilog="example: %(prog)s checkpoint_0500000.pth run_dir=runs/theirs env.task=walker_walk "
        "noise=video_background model.beta=0.25",
    )
    parser.add_argument("file", type=expanded, help="a checkpoint_*.pth (needs the extra `reference`) or an .npz")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="run_dir=RUN, the folder to make, and settings that are not in the file, as for training: above all "
        "env.task. Widths, picture size and, if it has them, loss weights come from the file, the rest from size=paper",
    )
    options = parser.parse_args()
    try:
        import_weights(options.file, options.settings)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


def import_weights(file: Path, settings: Sequence[str]) -> None:
    """Reads, checks and writes; prints the result.

    Raises:
        UserError: the file, a setting or the folder is wrong; then nothing is written.
    """
    from denoised_mdp import envs
    from denoised_mdp.reference import weights

    source = weights.read(file)
    config = configure(source.settings, settings)
    envs.check(env=config.env.model_dump(), render=config.render.model_dump(), noise=config.noise.model_dump())
    path = weights.save(source, config, imported_from=file)
    widths = {name: getattr(config.model, name) for name in PART_NAMES}
    parts = ", ".join(f"{name} {part.belief}+{part.state}" for name, part in widths.items() if part.belief)
    print(f"{path}: {parts}; {config.env.image_size} pixels, {source.actions} actions, env step {source.env_step}")
    if (actions := actions_of_task(config)) != source.actions:
        print(
            f"note: env.task={config.env.task} takes {actions} actions, but these weights have {source.actions}: to "
            "evaluate them, import them with their own task",
            file=sys.stderr,
        )


def configure(decided: dict[str, object], settings: Sequence[str]) -> Config:
    """Returns the configuration of the new run. `decided`: settings from the file, which no other may change."""
    from denoised_mdp.config.compose import compose
    from denoised_mdp.reference import weights

    given = [text.partition("=")[0] for text in settings]
    if "run_dir" not in given:
        raise UserError("run_dir=... is missing: the folder to make")
    for name in given:
        if name in decided:
            raise UserError(f"{name} cannot be set: in this file it is {decided[name]}")
    preset = [] if "size" in given else ["size=paper"]
    return compose([*preset, *settings, *weights.overrides(decided)])


def actions_of_task(config: Config) -> int:
    """Returns the number of actions that the environment takes."""
    from denoised_mdp.runs.evaluation import make_env

    without_video = config.noise.model_copy(update={"video_background": False, "noisy_sensor": False})
    env = make_env(config.model_copy(update={"noise": without_video}), seed=0, split="eval")
    try:
        return env.action_size
    finally:
        env.close()
