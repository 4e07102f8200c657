"""What a study is: the runs that its YAML file describes, their commands, and how far each has come."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import Field, ValidationError

from denoised_mdp.config.compose import compose
from denoised_mdp.config.schema import Config, explain
from denoised_mdp.config.sections import Settings, Text
from denoised_mdp.errors import UserError, did_you_mean, one_line


class Study(Settings):
    """The description of a study: the product of some choices along each axis of each grid, for every seed."""

    settings: list[Text] = Field([])  # overrides of every run
    seeds: list[int] = Field(min_length=1)
    choices: dict[Text, dict[Text, list[Text]]]  # axis -> choice -> its overrides
    grids: list[dict[Text, list[Text]]] = Field(min_length=1)  # in the order of their work: axis -> choices


class Job(NamedTuple):
    """One run of a study."""

    name: str
    overrides: list[str]
    config: Config


def load(path: Path) -> Study:
    """Reads the description of a study.

    Raises:
        UserError: the file is missing, or is not a study.
    """
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, list(Study.model_fields))}") from None
    for axis, choice in ((a, c) for grid in study.grids for a, choices in grid.items() for c in choices):
        known = study.choices.get(axis)
        if known is None:
            raise UserError(f"{path}: grids: there is no axis {axis}{did_you_mean(axis, study.choices)}")
        if choice not in known:
            raise UserError(f"{path}: grids: {axis} has no choice {choice}{did_you_mean(choice, known)}")
    return study


def jobs(study: Study, out: Path, more: Sequence[str] = ()) -> list[Job]:
    """Returns the runs of a study in their order, each once, with checked configurations. `more`: further overrides.

    Raises:
        UserError: the overrides of a run are wrong.
    """
    found: dict[str, Job] = {}
    for grid in study.grids:
        for chosen, seed in itertools.product(itertools.product(*grid.values()), study.seeds):
            name = "-".join([*chosen, f"seed{seed}"])
            parts = [study.choices[axis][choice] for axis, choice in zip(grid, chosen, strict=True)]
            overrides = [*study.settings, *itertools.chain(*parts), f"seed={seed}", *more, f"run_dir={out / name}"]
            if name in found and found[name].overrides != overrides:
                raise UserError(f"{name}: two grids make different runs of this name")
            if name not in found:
                try:
                    found[name] = Job(name, overrides, compose(overrides))
                except UserError as error:
                    raise UserError(f"{name}: {error}") from None
    return list(found.values())


def progress(job: Job) -> tuple[int, bool]:
    """Returns the env step of a run's newest checkpoint, and whether it is finished."""
    checkpoints = sorted(Path(job.config.run_dir, "checkpoints").glob("[0-9]*"))
    for path in reversed(checkpoints):
        try:
            saved = json.loads((path / "progress.json").read_bytes())
            return saved["env_step"], saved["finished"] and saved["env_step"] >= job.config.train.env_steps
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged one: training will set it aside
    return 0, False


def is_finished(job: Job) -> bool:
    """Checks whether a run is finished, and its newest checkpoint is undamaged."""
    from denoised_mdp.runs import checkpoint  # imports jax: not for --help

    newest = checkpoint.latest(Path(job.config.run_dir))
    return newest is not None and progress(job)[1] and checkpoint.damage(newest) is None


def log_of(job: Job) -> Path:
    """Returns the file of a run's output, beside the folder of the study's runs."""
    folder = Path(job.config.run_dir)
    return folder.parent.with_name(f"{folder.parent.name}-logs") / f"{folder.name}.log"


def train_command(job: Job) -> list[str]:
    """Returns the command that trains a run, as a user would."""
    return [sys.executable, "-m", "denoised_mdp", "train", *job.overrides]
