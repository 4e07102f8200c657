"""Every setting of a run, typed and strict: an unknown key or a value out of range is an error.

`configs/` holds the numbers and their sources, `sections.py` the types, ranges and meanings. This module joins them in
one `Config`, checks what must fit together, and reads, writes and compares configurations.
Code below the training loop takes plain numbers, never these objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError, model_validator
from yaml import YAMLError

from denoised_mdp.config.sections import (
    PART_NAMES,
    TIA_PARTS,
    Analysis,
    Checkpoint,
    DenoisedModel,
    DynamicsPolicy,
    Env,
    Evaluate,
    Logger,
    Model,
    Noise,
    Part,
    Place,
    Policy,
    Precision,
    Preset,
    Render,
    Replay,
    Seed,
    Settings,
    Size,
    TIAModel,
    Train,
)
from denoised_mdp.errors import UserError, did_you_mean, one_line

# Settings that may change when a run resumes; a change of any other setting makes another run. A name includes all
# names below it. `train.env_steps` extends a run; the others decide where it runs and what it shows and keeps, and do
# not affect learning.
CHANGEABLE = (
    "devices",
    "distributed",
    "run_dir",
    "train.env_steps",
    "train.workers",
    "evaluate.video_every",
    "evaluate.workers",
    "noise.cache",
    "analysis",
    "checkpoint",
    "logger",
    "replay.device",
    "replay.memory_mb",
)


class Config(Settings):
    """All settings of a run."""

    seed: Seed
    seeds: Size = 1  # number of seeds to train together, from `seed` on; each one's own configuration has 1
    run_dir: Place
    precision: Precision = "float32"  # of matrix products and convolutions
    devices: Size = 1  # of each process; batches are divided among them
    distributed: bool = False  # several processes, started by a scheduler
    env: Env
    render: Render
    noise: Noise
    size: Preset
    model: Model
    policy: Policy
    replay: Replay
    train: Train
    evaluate: Evaluate
    analysis: Analysis = Analysis(every=None, clips=2, repeats=2)
    checkpoint: Checkpoint
    logger: Logger

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Checks dependencies between settings; reports the first violation."""
        for misfit in _misfits(self):
            raise ValueError(misfit)
        return self


def _misfits(config: Config) -> Iterator[str]:
    yield from _misfits_of_model(config.model)
    yield from _misfits_of_updates(config)
    yield from _misfits_of_collecting(config)
    yield from _misfits_of_lengths(config)


def _misfits_of_model(model: DenoisedModel | TIAModel) -> Iterator[str]:
    parts: dict[str, Part] = {name: getattr(model, name) for name in PART_NAMES}
    for name, part in parts.items():
        if name == "x" and not (part.belief and part.state):
            yield (
                f"model.x.belief={part.belief} model.x.state={part.state}: both must be at least 1, "
                "because the policy sees only x"
            )
        if bool(part.belief) != bool(part.state):
            yield (
                f"model.{name}.belief={part.belief} model.{name}.state={part.state}: "
                f"both must be 0, which switches {name} off, or both at least 1"
            )
        if model.states == "categorical" and part.state % model.classes:
            yield f"model.{name}.state={part.state}: must be a multiple of model.classes={model.classes}"
    others = [name for name in PART_NAMES if name not in TIA_PARTS]
    if isinstance(model, TIAModel) and (not model.y.belief or any(parts[name].belief for name in others)):
        widths = " ".join(f"model.{name}.belief={parts[name].belief}" for name in ("y", *others))
        yield f"{widths}: model=tia has {' and '.join(TIA_PARTS)}, and no {' or '.join(others)}"
    if isinstance(model, DenoisedModel) and (model.beta_free_nats_x or 0) > model.beta_x:
        yield f"model.beta_free_nats_x={model.beta_free_nats_x}: must not exceed model.beta_x={model.beta_x}"


def _misfits_of_updates(config: Config) -> Iterator[str]:
    model, train = config.model, config.train
    if train.batch_size % model.decode_every:
        yield f"model.decode_every={model.decode_every}: must divide train.batch_size={train.batch_size}"
    if isinstance(config.policy, DynamicsPolicy):
        burn_in, every = config.policy.burn_in, config.policy.start_every
        if burn_in >= train.batch_length:
            yield f"policy.burn_in={burn_in}: must be below train.batch_length={train.batch_length}"
        elif every > (states := train.batch_size * (train.batch_length - burn_in)):
            yield (
                f"policy.start_every={every}: must not exceed {states}, the states of a batch that imagination can "
                "start from (train.batch_size x train.batch_length, without policy.burn_in rows)"
            )


def _misfits_of_collecting(config: Config) -> Iterator[str]:
    train, replay = config.train, config.replay
    if train.prefill >= train.env_steps:
        yield (
            f"train.prefill={train.prefill}: must be below train.env_steps={train.env_steps}, or the agent would not "
            "learn"
        )
    first_end = train.envs * config.env.episode_frames  # until then all environments are in their first episode
    if train.envs > 1 and config.env.name != "custom" and not replay.include_running and first_end > train.env_steps:
        yield (
            f"train.envs={train.envs}: their first episodes end at env step {first_end}, after train.env_steps="
            f"{train.env_steps}, and the agent cannot learn before; choose fewer, or replay.include_running=true"
        )
    if config.seeds > 1 and config.distributed:
        yield f"seeds={config.seeds}: impossible with distributed=true, which takes one seed"
    if replay.device and config.distributed:
        yield "replay.device=true: impossible with distributed=true, where each process reads its share from the disk"


def _misfits_of_lengths(config: Config) -> Iterator[str]:
    train, replay = config.train, config.replay
    if replay.capacity < train.batch_length:
        yield f"replay.capacity={replay.capacity}: must be at least train.batch_length={train.batch_length}"
    if train.every < config.env.action_repeat:
        yield (
            f"train.every={train.every}: must be at least env.action_repeat={config.env.action_repeat}, "
            "the frames of one agent step"
        )
    if config.env.action_repeat > config.env.episode_frames:
        yield f"env.action_repeat={config.env.action_repeat}: an episode has {config.env.episode_frames} frames"
    rows = -(-config.env.episode_frames // config.env.action_repeat) + 1  # the reset is a row too
    if train.batch_length > rows:
        yield (
            f"train.batch_length={train.batch_length}: must not exceed an episode, {rows} steps with "
            f"env.action_repeat={config.env.action_repeat}"
        )


def names() -> list[str]:
    """Returns the dotted names of all settings and sections: model, model.alpha, model.x, model.x.belief, ...

    They include those of every world under `env`, every model and every learner under `policy`, chosen or not.
    """
    return list(dict.fromkeys(_names(Config, "")))


def _names(settings: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in settings.model_fields.items():
        yield prefix + name
        for kind in get_args(field.annotation) or (field.annotation,):  # `env`, `model`, `policy` have several
            kind = getattr(kind, "__origin__", kind)  # the type inside an Annotated
            if isinstance(kind, type) and issubclass(kind, Settings):
                yield from _names(kind, f"{prefix}{name}.")


def parse(values: Mapping[str, Any]) -> Config:
    """Checks nested plain data against the types, ranges and dependencies above.

    Raises:
        UserError: names each wrong setting and its allowed values, in one line.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, names())) from None


def explain(error: ValidationError, known: list[str]) -> str:
    """Returns pydantic's errors in one line; `known`: the names to suggest for an unknown one."""
    lines: list[str] = []
    reported = set()
    for finding in error.errors():
        kind, value = finding["type"], finding.get("input")
        name, chosen = _place(finding["loc"])
        if kind == "extra_forbidden" and name in known:
            lines.append(f"{name}={value}: is not a setting of {chosen}")
        elif kind == "extra_forbidden":
            lines.append(f"{name}: there is no such setting{did_you_mean(name, known)}")
        elif kind == "union_tag_invalid":
            context = finding.get("ctx", {})
            lines.append(f"{name}.name={context.get('tag')}: should be one of {context.get('expected_tags')}")
        elif kind == "union_tag_not_found":
            lines.append(f"{name}.name: is missing")
        elif kind == "missing":
            lines.append(f"{name}: is missing" + (f", {chosen} sets it" if chosen else ""))
        elif kind == "value_error":
            lines.append(str(finding.get("ctx", {}).get("error")))
        elif kind in ("model_type", "dict_type"):
            inside = [k for k in known if k.startswith(f"{name}.")]
            lines.append(f"{name}={value}: is a section, with settings such as {', '.join(inside[:2])}")
        elif (str(value), kind) not in reported:  # else from another wrong setting, as model.beta_y from model.beta
            reported.add((str(value), kind))
            lines.append(f"{name}={value}: {finding['msg'].removeprefix('Input ').removeprefix('String ')}")
    return one_line("; ".join(lines))


def _place(location: tuple[int | str, ...]) -> tuple[str, str | None]:
    """Returns the dotted name of a setting, and the choice that it belongs to, as policy=sac, if there is one."""
    place = [str(part) for part in location]
    chosen = None
    if len(place) > 1 and place[0] in ("env", "model", "policy"):  # pydantic inserts the name of the chosen one
        chosen = f"{place[0]}={place.pop(1)}"
    return ".".join(place), chosen


def save(config: Config, path: Path) -> None:
    """Writes the settings as YAML, whole or not at all; `load` reads them back equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(config.model_dump())))
        file.flush()
        os.fsync(file.fileno())  # else a power cut after the next line may leave an empty file
    partial.replace(path)


def load(path: Path) -> Config:
    """Reads what `save` wrote.

    Raises:
        UserError: there is no such file, or it is not a valid configuration.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a configuration")
        return parse({str(key): value for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}") from None


def differences(old: Config, new: Config) -> list[str]:
    """Returns changes that make `new` another run than `old`, as ["model.beta: 0.25 -> 1"], without CHANGEABLE ones."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{name}: {_plain(before.get(name))} -> {_plain(after.get(name))}"
        for name in before | after  # each world has its own settings
        if before.get(name) != after.get(name) and not is_changeable(name)
    ]


def _plain(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def is_changeable(name: str) -> bool:
    """Returns whether the setting with this dotted name may change when a run resumes."""
    return any(name == entry or name.startswith(f"{entry}.") for entry in CHANGEABLE)


def _leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Preset):  # tables; `model` and `policy` contain the values in use
            continue
        if isinstance(value, Settings):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
