"""From the command line to a checked configuration, with every mistake of a user told in one line.

A training script ends with

    if __name__ == "__main__":
        cli.train(main, check=check)  # main(*configs), one of each seed; check(config)

and a script about a run that exists with

    class Options(cli.RunOptions):
        '''What the script does, for its help.'''
        episodes: Size = Field(10, description="how many")

    if __name__ == "__main__":
        cli.look(main, Options)  # main(config, checkpoint, options)

Hydra composes the configuration, and runs sweeps (-m); it writes nothing for a single run. A UserError ends a script
with exit code 2 and one line on stderr, or with its traceback where HYDRA_FULL_ERROR=1 is set.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import os
import re
import signal
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError

from denoised_mdp import config as settings
from denoised_mdp import run_dir
from denoised_mdp.config import Config, Count, Settings, Text
from denoised_mdp.errors import UserError, did_you_mean, nearest, one_line, user_errors

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
USER_ERROR = 2  # exit code
TOLD = 8  # choices of a group named in an error; the rest are counted
NAMED = ("env", "env.task", "noise", "model", "size", "seed", "seeds")  # what the name of every run tells


class _Told(Exception):
    """An error of a job that has been printed already; its argument is the exit code."""


def train(main: Callable[..., None], *, check: Callable[[Config], object] = lambda config: None) -> None:
    """Runs `main` on the configuration of the command line, with Hydra's -m, --cfg and --help.

    check: looks for what only the world can tell (an unknown task, an empty folder) and writes nothing; a ValueError
        of it is the user's to see. It has passed for every run of a sweep before the first one starts.
    main: takes a Config, or those of all seeds that are trained together; it may raise UserError too, and SystemExit
        to stop a whole sweep.
    """
    with_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises what it would print in many lines
    with _one_line_errors(with_traceback):
        args = _parse_args(sys.argv[1:])
        jobs = [compose_seeds(job) for job in _jobs(args.overrides, sweep=args.multirun)]
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            _hydra(main)
            return
        configs = list(itertools.chain(*jobs))
        _refuse_shared_run_dirs(configs)
        for config in configs:
            run_dir.check(config)
            with user_errors():
                check(config)
        if args.multirun:
            _hydra(main)
        else:
            main(*jobs[0])


@contextmanager
def _one_line_errors(with_traceback: bool) -> Iterator[None]:
    """A UserError inside ends the process with one line, or is raised on; Ctrl-C ends it quietly."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("denoised_mdp").setLevel(logging.INFO)
    try:
        yield
    except UserError as error:
        if with_traceback:
            raise
        _tell(error)
        sys.exit(USER_ERROR)
    except _Told as error:
        sys.exit(error.args[0])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _hydra(main: Callable[..., None]) -> None:
    """What Hydra does beyond composing: sweeps, --cfg, --help."""
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(functools.partial(_job, main))()


def compose(overrides: Sequence[str]) -> Config:
    """The checked configuration that `overrides` make of `configs/`; of several seeds, that of the first.

    Raises: as `compose_seeds`.
    """
    return compose_seeds(overrides)[0]


def compose_seeds(overrides: Sequence[str]) -> list[Config]:
    """The checked configurations that `overrides` make of `configs/`, one for each of `seeds`.

    Raises:
        UserError: an override that is malformed or names nothing, a value that is wrong.
    """
    for override in _parsed(overrides):
        _check(override)
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra.compose("config", [_forced(text) for text in overrides], return_hydra_config=True)
        return _resolve(composed, composed.hydra)
    except (HydraException, OmegaConfBaseException) as error:
        # The first lines say it, the rest is where Hydra looked and how OmegaConf calls it.
        text = one_line(error).split(" Config search path")[0].split(" object_type=")[0].split(" To append")[0]
        raise UserError(text + ("; pip install hydra-submitit-launcher" if "submitit" in text else "")) from error


def _forced(text: str) -> str:
    """The override, forced where it is of a setting: `parse` says best that the chosen `policy` does not have it."""
    (override,) = _parsed([text])
    key = override.key_or_group
    return f"++{text}" if key in settings.names() and key not in _groups() else text


def _resolve(values: DictConfig, hydra_config: Any) -> list[Config]:
    """The Configs of what Hydra composed: of each of its seeds that which this seed has alone.

    A missing run_dir is named after the run; below one that several seeds share each has a folder.
    """
    values = OmegaConf.masked_copy(values, [str(k) for k in values if k != "hydra"])
    first = _resolve_one(values, hydra_config)
    if first.seeds == 1:
        return [first]
    configs = []
    for seed in range(first.seed, first.seed + first.seeds):
        changes: dict[str, Any] = {"seed": seed, "seeds": 1}
        if values.run_dir is not None:
            changes["run_dir"] = str(Path(first.run_dir, f"seed{seed}"))
        configs.append(_resolve_one(OmegaConf.merge(values, changes), hydra_config))
    return configs


def _resolve_one(values: Any, hydra_config: Any) -> Config:
    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, dict)
    tree = {str(key): value for key, value in plain.items()}
    tree["model"] = _fitting(tree["model"], hydra_config.overrides.task)
    named = tree.get("run_dir") is not None
    config = settings.parse(tree if named else tree | {"run_dir": "runs"})
    if named:
        return config
    name = run_name(config, hydra_config.runtime.choices, hydra_config.overrides.task)
    return config.model_copy(update={"run_dir": str(Path("runs", name))})


def _fitting(model: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`model` without what a file of configs/ set for the other kind of model; what `overrides` say is left to fail.

    So experiment=... goes with every model, though it sets the beta that TIA does not have.
    """
    given = {override.key_or_group for override in _parsed(list(overrides))}
    foreign = [name for name in settings.of_other_models(model) if f"model.{name}" not in given]
    return {name: value for name, value in model.items() if name not in foreign}


def run_name(config: Config, choices: Any, overrides: Iterable[str]) -> str:
    """The name of a run that was given none: the same for the same overrides, whatever their order.

    cheetah_run-none-xy-small-seed0, and then every override that this does not tell and that makes another run, as
    -model.beta_0.25. What cannot stand in a file's name is told by a checksum instead.
    """
    name = f"{config.env.task}-{choices['noise']}-{choices['model']}-{choices['size']}-seed{config.seed}"
    others = {}
    for override in _parsed(list(overrides)):
        key = override.key_or_group
        if key not in NAMED and not settings.is_changeable(key):
            value = override.get_value_element_as_str()
            others[key] = value.replace("/", "-") if key == "experiment" else value
    told = name + "".join(f"-{key}_{value}" for key, value in sorted(others.items()))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", told)
    if plain == told and len(told) <= 120:
        return plain
    return f"{plain[:110].rstrip('-_.')}-{zlib.crc32(told.encode()):08x}"


def _job(main: Callable[..., None], values: DictConfig) -> None:
    """One job of a sweep. Its errors are told at once: Hydra would hold them back to the sweep's end."""
    try:
        main(*_resolve(values, HydraConfig.get()))
    except UserError as error:
        _tell(error)
        raise _Told(USER_ERROR) from error
    except Exception as error:
        traceback.print_exc()
        raise _Told(1) from error


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    parser.error = refuse
    args = parser.parse_intermixed_args(list(argv))
    if args.multirun and (args.cfg or args.info):
        raise UserError("--cfg and --info show one run, -m makes several: leave one out")
    for option in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(args, option, None) is not None:
            raise UserError(f"--{option.replace('_', '-')} is not for this script: settings live in {CONFIGS}")
    # Hydra parses them again, and would not find overrides between options.
    sys.argv[1:] = [*args.overrides, *(text for text in argv if text not in args.overrides)]
    return args


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            raise UserError(f"cannot read {text!r}: settings are written key=value{_hint(text)}") from error
    return parsed


def _hint(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        return did_you_mean(text, [f"{name}=..." for name in settings.names()])
    return f", and a value with special characters is quoted twice: '{key}=\"{value}\"'"


def _jobs(overrides: Sequence[str], *, sweep: bool) -> list[list[str]]:
    """The overrides of each job: all combinations of a sweep's values, or the one job."""
    alternatives = []
    for override in _parsed(overrides):
        _check(override)
        key = override.get_key_element()
        if override.is_sweep_override():
            if not sweep:
                raise UserError(f"{override.input_line}: several values need a sweep, -m")
            if not override.is_discrete_sweep():
                raise UserError(f"{override.input_line}: the values of a sweep are a,b,c or range(a,b)")
            alternatives.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            alternatives.append([str(override.input_line)])
    return [list(job) for job in itertools.product(*alternatives)]


def _check(override: Override) -> None:
    """That an override names a group with its choices, or a setting.

    Raises:
        UserError: it does not; the nearest names are told.
    """
    key, text = override.key_or_group, override.input_line
    if isinstance(override.value(), Glob):
        raise UserError(f"{text}: name the values of a sweep, as a,b,c")
    if key.split(".")[0].split("/")[0] == "hydra":
        return
    groups, names = _groups(), settings.names()
    if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
        known = f"; write {key}=..." if key in groups or key in names else did_you_mean(key, [*groups, *names])
        raise UserError(f"{text}: settings can be changed, not added or removed{known}")
    if key in groups:
        choices = groups[key]
        values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
        for value in values:
            if value not in choices and not (key == "experiment" and value is None):
                by_likeness = list(dict.fromkeys([*nearest(str(value), choices), *choices]))
                more = f" and {len(choices) - TOLD} more in configs/{key}" if len(choices) > TOLD else ""
                told = ", ".join(by_likeness[:TOLD]) + more
                raise UserError(f"{key}={value}: there is no such choice, only {told}")
    else:
        for name in _named(key, override.value()):
            if name not in names and not name.startswith(tuple(f"{free}." for free in settings.FREE)):
                at = "" if name == key else f"{name}: "
                raise UserError(f"{text}: {at}there is no such setting{did_you_mean(name, [*groups, *names])}")


def _named(key: str, value: Any) -> Iterator[str]:
    """The settings that key=value sets: more than one where the value is written {name:value,...}."""
    yield key
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _named(f"{key}.{name}", inner)


def _groups() -> dict[str, list[str]]:
    """The configuration groups and their choices: folders and files of `configs/`."""
    if not CONFIGS.is_dir():
        raise UserError(f"{CONFIGS} is missing: run the scripts from a checkout, installed with pip install -e .")
    folders = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra")
    return {
        folder.name: sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
        for folder in folders
    }


def _refuse_shared_run_dirs(configs: Sequence[Config]) -> None:
    seen = set()
    for config in configs:
        if config.run_dir in seen:
            raise UserError(
                f"run_dir={config.run_dir}: each run of a sweep needs its own; leave it out, or tell them apart "
                "as in 'run_dir=runs/try-${seed}'"
            )
        seen.add(config.run_dir)


class RunOptions(Settings):
    """What every script about a run takes."""

    run_dir: Text = Field(description="the folder of the run")
    checkpoint: Text = Field("latest", description="latest, or the env step of one")
    seed: Count = Field(1841, description="of the environments and of all sampling")


Options = TypeVar("Options", bound=RunOptions)
ADJUSTABLE = ("render.", "noise.")  # settings of a run that a look at it may change: the world, not the agent


def look(main: Callable[[Config, Path, Options], None], options_type: type[Options]) -> None:
    """Runs `main` on the settings of a run that exists, the folder of one of its checkpoints, and the options.

    The command line is key=value, of `options_type` and of the run's own settings under render and noise.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_help(options_type))
        return
    with _one_line_errors(os.environ.get("HYDRA_FULL_ERROR") == "1"):
        main(*parse_run_options(options_type, sys.argv[1:]))


def parse_run_options(options_type: type[Options], argv: Sequence[str]) -> tuple[Config, Path, Options]:
    """The settings of the run that `argv` names, a checkpoint's folder, and the options.

    Raises:
        UserError: there is no such run, it has no such checkpoint, or an option is unknown or wrong.
    """
    own = list(options_type.model_fields)
    adjustable = [name for name in settings.names() if name.startswith(ADJUSTABLE)]
    given, adjusted = {}, {}
    for override in _parsed(argv):
        key, plain = override.key_or_group, override.is_add() or override.is_force_add() or override.is_delete()
        if plain or override.is_sweep_override() or key not in own + adjustable:
            raise UserError(
                f"{override.input_line}: there is no such option{did_you_mean(key, own + adjustable)}; see --help"
            )
        value = OmegaConf.to_container(OmegaConf.create({"value": override.value()}))
        (given if key in own else adjusted)[key] = value["value"] if isinstance(value, dict) else None
    if "run_dir" not in given:
        raise UserError("run_dir=... is missing: the folder of the run")
    try:
        options = options_type.model_validate(given)
    except ValidationError as error:
        raise UserError(settings.explain(error, own)) from None
    folder = Path(options.run_dir)
    config = run_dir.load(folder)
    tree = config.model_dump()
    for name, value in adjusted.items():
        section, key = name.split(".")
        tree[section][key] = value
    return settings.parse(tree), run_dir.checkpoint(folder, options.checkpoint), options


def _help(options_type: type[RunOptions]) -> str:
    lines = [options_type.__doc__ or "", "", f"usage: python {sys.argv[0]} run_dir=RUN [key=value ...]", ""]
    for name, field in options_type.model_fields.items():
        default = "" if field.is_required() else f" (default {field.default})"
        lines.append(f"  {name:<14}{field.description or ''}{default}")
    lines += ["", "  render.backend=ray noise.source=DIR ...   the run's own settings of rendering and noise"]
    return "\n".join(lines)


def _tell(error: UserError) -> None:
    print(f"error: {one_line(error)}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
