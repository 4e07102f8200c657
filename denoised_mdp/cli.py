"""The command line: composes and checks the configuration, and reports each mistake of a user in one line.

A training command calls

    cli.train(main, check=check)  # main(*configs), one for each seed; check(config)

and a command about an existing run calls

    class Options(cli.RunOptions):
        '''The purpose of the command, for its help.'''
        episodes: Size = Field(10, description="number of episodes")

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
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pydantic import Field, ValidationError

from denoised_mdp import variables
from denoised_mdp.config import schema as settings
from denoised_mdp.config.compose import (
    CONFIGS,
    SEARCHPATH,
    at_home,
    check_override,
    compose_seeds,
    groups,
    parse_overrides,
    quoted,
    resolve,
)
from denoised_mdp.config.schema import Config
from denoised_mdp.config.sections import Count, Place, Settings, Size, Text
from denoised_mdp.errors import UserError, did_you_mean, disk_errors, one_line, unwritable, user_errors
from denoised_mdp.runs import run_dir, sources
from denoised_mdp.runs.sources import CONSTRUCTOR

USER_ERROR = 2  # exit code
_JAX_TEXTS = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "JAX_COORDINATOR_ADDRESS")  # unchecked by jax
_log = logging.getLogger(__name__)


class _Reported(Exception):
    """An error of a job that has been printed already; its argument is the exit code."""


def train(main: Callable[..., None], *, check: Callable[[Config], object] = lambda config: None) -> None:
    """Runs `main` on the configuration of the command line, with Hydra's -m, --cfg and --help.

    check: finds mistakes that only the world shows (an unknown task, an empty folder), and writes nothing. The user
        sees its ValueErrors. It passes for every run of a sweep before the first one starts.
    main: takes a Config, or one for each seed that is trained in this process; it may raise UserError too, and
        SystemExit to stop a whole sweep.
    """
    with_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors, which it otherwise prints in many lines
    with _one_line_errors(with_traceback), help_that_is_no_text():
        args = _parse_args(sys.argv[1:])
        overrides = [*args.overrides, *_searchpath(args)]
        jobs = [compose_seeds(job) for job in _jobs(overrides, sweep=args.multirun)]
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            if args.help:  # overrides come before options
                sys.argv.insert(1, f"hydra.help.app_name={quoted(invocation())}")
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
            _check_jax()
            main(*jobs[0])


@contextmanager
def _one_line_errors(with_traceback: bool) -> Iterator[None]:
    """Ends the process with one line after a UserError, or raises it on; Ctrl-C ends the process quietly."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("denoised_mdp").setLevel(logging.INFO)
    variables.drop_what_changes_numbers()
    try:
        yield
    except UserError as error:
        if with_traceback:
            raise
        _report(error)
        sys.exit(USER_ERROR)
    except _Reported as error:
        sys.exit(error.args[0])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@contextmanager
def help_that_is_no_text() -> Iterator[None]:
    """Lets Hydra 1.3 define its options on Python 3.14, which checks help texts; Hydra makes one of them later."""
    if sys.version_info < (3, 14):
        yield
        return
    container: Any = argparse.ArgumentParser
    check = container._check_help

    def check_text(parser: Any, action: Any) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    container._check_help = check_text
    try:
        yield
    finally:
        del container._check_help  # it is inherited


def _check_jax() -> None:
    """Imports jax if variables are set that jax checks on import, and reports a wrong one to the user."""
    names = [name for name in os.environ if name.startswith("JAX_") and name not in _JAX_TEXTS]
    if names:
        try:
            import jax  # noqa: F401
        except ValueError as error:
            raise UserError(f"jax rejects {' or '.join(names)}: {one_line(error)}") from error


def _hydra(main: Callable[..., None]) -> None:
    """Runs Hydra for all but composing: sweeps, --cfg, --help."""
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(functools.partial(_job, main))()


def _job(main: Callable[..., None], values: DictConfig) -> None:
    """Runs one job of a sweep and reports its errors at once: Hydra would keep them until the sweep ends."""
    try:
        main(*resolve(values, HydraConfig.get()))
    except UserError as error:
        _report(error)
        raise _Reported(USER_ERROR) from error
    except Exception as error:
        traceback.print_exc()
        raise _Reported(1) from error


def _parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser, argv = get_args_parser(), [at_home(text) for text in argv]

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")

    parser.error = refuse
    args = parser.parse_intermixed_args(list(argv))
    if args.multirun and (args.cfg or args.info):
        raise UserError("--cfg and --info show one run, but -m makes several: leave one of them out")
    for option in ("config_path", "config_name", "experimental_rerun"):
        if getattr(args, option, None) is not None:
            raise UserError(f"--{option.replace('_', '-')} has no use here: the settings are in {CONFIGS}")
    # Hydra parses them again, and would not find overrides between options.
    sys.argv[1:] = [*args.overrides, *(text for text in argv if text not in args.overrides)]
    return args


def _searchpath(args: argparse.Namespace) -> list[str]:
    """Returns --config-dir, a user's folder of more choices, as an override."""
    if args.config_dir is None:
        return []
    folder = Path(args.config_dir).absolute()
    if not folder.is_dir():
        raise UserError(f"--config-dir {args.config_dir}: there is no such folder")
    if any(text.startswith(f"{SEARCHPATH}=") for text in args.overrides):
        raise UserError(f"--config-dir and {SEARCHPATH} both name folders of settings: put all of them into the second")
    return [f"{SEARCHPATH}=[{quoted(f'file://{folder}')}]"]


def _jobs(overrides: Sequence[str], *, sweep: bool) -> list[list[str]]:
    """Returns the overrides of each job: all combinations of a sweep's values, or the one job."""
    alternatives, choices = [], groups(overrides)
    for override in parse_overrides(overrides):
        check_override(override, choices)
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


def _refuse_shared_run_dirs(configs: Sequence[Config]) -> None:
    seen = set()
    for config in configs:
        if config.run_dir in seen:
            raise UserError(
                f"run_dir={config.run_dir}: each run of a sweep needs its own; leave it out, or include a setting, "
                "as in 'run_dir=runs/try-${seed}'"
            )
        seen.add(config.run_dir)


def invocation() -> str:
    """Returns the command that started this process, for its help: python scripts/train.py, or denoised-mdp train."""
    return f"python {sys.argv[0]}" if sys.argv[0].endswith(".py") else sys.argv[0]


class RunOptions(Settings):
    """The options of every command about a run."""

    run_dir: Place = Field(description="the folder of the run")
    checkpoint: Text = Field("latest", description="latest, or the env step of a checkpoint")
    seed: Count = Field(1841, description="seed of the environments and of all sampling")


class RecordingOptions(RunOptions):
    """What a script takes that measures on recorded episodes, as `analysis.obtain` does."""

    data: Place | None = Field(
        None, description="a file of recorded episodes, written if it is not there: give several models the same one"
    )
    repeats: Size = Field(2, description="episodes to record of each policy in each environment")
    policies: Annotated[list[Place], Field(min_length=1)] = Field(
        ["uniform", "bang_bang", "self"],
        description="who acts while recording: uniform, bang_bang, self, or folders of other runs",
    )
    clips: Size = Field(4, description="environments to record in, each with its own video and start")
    out: Place | None = Field(None, description="the folder to write to; default: the run's")

    def folder(self) -> Path:
        """Makes the folder to write to, and returns it."""
        folder = Path(self.out or self.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


Options = TypeVar("Options", bound=RunOptions)
ADJUSTABLE = ("render.", "noise.")  # the settings of a run that `look` may change: the world, not the agent


def look(main: Callable[[Config, Path, Options], None], options_type: type[Options]) -> None:
    """Runs `main` on the settings of an existing run, the folder of one of its checkpoints, and the options.

    The command line consists of key=value pairs: options, and settings of the run under render and noise.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_help(options_type))
        return
    with _one_line_errors(os.environ.get("HYDRA_FULL_ERROR") == "1"):
        parsed = parse_run_options(options_type, sys.argv[1:])
        _check_jax()
        with disk_errors(parsed[2].run_dir, "fix that, then run the same command again: it starts anew"):
            main(*parsed)


def parse_run_options(options_type: type[Options], argv: Sequence[str]) -> tuple[Config, Path, Options]:
    """Returns the settings of the run in `argv`, the folder of a checkpoint, and the options.

    Raises:
        UserError: there is no such run or checkpoint, the run names code that `argv` does not name, or an option is
            unknown or wrong.
    """
    option_names = list(options_type.model_fields)
    adjustable = [name for name in settings.names() if name.startswith(ADJUSTABLE)] + [CONSTRUCTOR]
    values, changes = {}, {}
    for override in parse_overrides(argv):
        key, prefixed = override.key_or_group, override.is_add() or override.is_force_add() or override.is_delete()
        if prefixed or override.is_sweep_override() or key not in option_names + adjustable:
            advice = did_you_mean(key, option_names + adjustable)
            raise UserError(f"{override.input_line}: there is no such option{advice}; see --help")
        value = OmegaConf.to_container(OmegaConf.create({"value": override.value()}))
        (values if key in option_names else changes)[key] = value["value"] if isinstance(value, dict) else None
    if "run_dir" not in values:
        raise UserError("run_dir=... is missing: the folder of the run")
    try:
        options = options_type.model_validate(values)
    except ValidationError as error:
        raise UserError(settings.explain(error, option_names)) from None
    if problem := unwritable(Path(getattr(options, "out", None) or options.run_dir)):
        raise UserError(f"the results cannot be written: {problem}")
    folder = Path(options.run_dir)
    config = run_dir.load_to_play(folder, constructor=changes.get(CONSTRUCTOR))
    tree = config.model_dump()
    for name, value in changes.items():
        section, key = name.split(".")
        tree[section][key] = value
    config = settings.parse(tree)
    if "noise.source" not in changes and (changed := sources.changed_videos(folder, config)):
        _log.warning("run_dir=%s: %s", folder, changed)
    return config, run_dir.checkpoint(folder, options.checkpoint), options


def _help(options_type: type[RunOptions]) -> str:
    lines = [options_type.__doc__ or "", "", f"usage: {invocation()} run_dir=RUN [key=value ...]", ""]
    for name, field in options_type.model_fields.items():
        default = "" if field.is_required() else f" (default {field.default})"
        lines.append(f"  {name:<14}{field.description or ''}{default}")
    lines += ["", "  render.backend=ray noise.source=DIR ...   changes settings of rendering and noise"]
    lines += ["  env.constructor=FILE.py:FUNCTION          allows the code of a custom environment to run"]
    return "\n".join(lines)


def _report(error: UserError) -> None:
    print(f"error: {one_line(error)}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
