"""Studies: many runs that a YAML file describes, a few at a time, each by the ordinary training command.

A study may be stopped at any time: the same command skips finished runs and resumes the others. Ctrl-C lets the runs
save; after a kill of the study itself they train on, each to its end. As jobs of SLURM (submitit) they train
on after Ctrl-C.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import yaml
from pydantic import Field, ValidationError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from denoised_mdp import variables
from denoised_mdp.commands import train
from denoised_mdp.config.compose import compose, compose_seeds
from denoised_mdp.config.schema import Config, explain
from denoised_mdp.config.sections import Settings, Text
from denoised_mdp.errors import UserError, at_least, did_you_mean, expanded, one_line
from denoised_mdp.runs import run_dir

FOLDER = Path(__file__).parent.parent / "studies"
SHOW_EVERY = 2.0  # seconds between two looks at the runs
LOOK_EVERY = 1.0  # seconds between two looks at the jobs of a cluster
SLURM_QUEUES_AGAIN = {"slurm_max_num_timeout": 1000}  # times; as configs/hydra/launcher/slurm.yaml, and so is the next
JOB = {"timeout_min": 600, "slurm_signal_delay_s": 300, "slurm_additional_parameters": {"requeue": True}}
PRINT_EVERY = 60.0  # seconds between two lines where there is no terminal

State = Literal["waiting", "running", "finished", "stopped", "failed"]


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


class Runner(Protocol):
    """Trains the unfinished runs of a study."""

    jobs: Sequence[Job]
    states: dict[str, State]  # by the run's name
    after_a_stop: str  # what the user can do about unfinished runs

    def run(self) -> None:
        """Trains all runs that wait, to their ends or to `stop`."""
        ...

    def stop(self) -> None:
        """Makes `run` return soon."""
        ...

    def output(self, job: Job) -> str:
        """Returns the output of a run, as far as there is any."""
        ...


class LocalRunner:
    """Works off the runs, `at_once` of them at a time, each process on cores of its own."""

    after_a_stop = "the same command resumes them"

    def __init__(self, todo: Sequence[Job], *, at_once: int):
        self.jobs, self.at_once = todo, at_once
        self.states: dict[str, State] = {job.name: "finished" if is_finished(job) else "waiting" for job in todo}
        self._processes: dict[str, subprocess.Popen] = {}
        self._stop = threading.Event()
        self._cores: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        available = sorted(os.sched_getaffinity(0))
        for i in range(at_once):
            self._cores.put(available[i::at_once] or available)

    def run(self) -> None:
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(self._train, [job for job in self.jobs if self.states[job.name] == "waiting"]))

    def stop(self) -> None:
        """Asks all processes to save and end, and starts no other."""
        self._stop.set()
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGTERM)

    def output(self, job: Job) -> str:
        return _text(log_of(job))

    def _train(self, job: Job) -> None:
        if self._stop.is_set():
            return
        cores = self._cores.get()
        log = log_of(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as output:
                command = train_command(job)
                process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            self._processes[job.name], self.states[job.name] = process, "running"
            with suppress(OSError):  # it has ended already, or the system does not allow it
                os.sched_setaffinity(process.pid, cores)
            if self._stop.is_set():  # it came while the process started
                process.send_signal(signal.SIGTERM)
            code = process.wait()
        except OSError as error:  # a full disk, or no process to be had
            print(f"{job.name}: {one_line(error)}", file=sys.stderr)
            code = 1
        finally:
            self._processes.pop(job.name, None)
            self._cores.put(cores)
        stopped = code == 0 or self._stop.is_set()
        self.states[job.name] = "finished" if is_finished(job) else "stopped" if stopped else "failed"


class TrainingJob:
    """A run as a job of submitit, which queues it again before a time limit or a pre-emption."""

    def __call__(self, overrides: Sequence[str]) -> None:
        logging.basicConfig(format="%(message)s")
        variables.drop_what_changes_numbers()
        configs = compose_seeds(overrides)
        for config in configs:
            train.check(config)
        train.main(*configs)

    def checkpoint(self, overrides: Sequence[str]) -> Any:
        """Returns the job to queue; the run itself has saved (training/signals.py)."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, overrides)


class ClusterRunner:
    """Submits all runs at once as jobs, each in a process of its own, and waits for them."""

    after_a_stop = "jobs of SLURM train on; once its queue is empty, the same command submits the others"

    def __init__(self, todo: Sequence[Job], *, cluster: str, settings: Mapping[str, Any]):
        """cluster: slurm, or local for this machine; settings: of the jobs, as submitit's AutoExecutor takes them.

        Raises:
            UserError: submitit is not installed, there is no such cluster here, or a setting is unknown or wrong.
        """
        self.jobs = todo
        self.states: dict[str, State] = {job.name: "finished" if is_finished(job) else "waiting" for job in todo}
        self._submitted: dict[str, Any] = {}
        self._stop = threading.Event()
        try:
            from submitit import AutoExecutor

            self._executor = AutoExecutor(log_of(todo[0]).parent, cluster=cluster, **SLURM_QUEUES_AGAIN)
            self._executor.update_parameters(**JOB | dict(settings))
        except ImportError:
            raise UserError("--cluster needs submitit: pip install submitit") from None
        except (RuntimeError, NameError, ValueError, TypeError, AssertionError, OSError) as error:
            raise UserError(f"--cluster {cluster}: {one_line(error)}") from error

    def run(self) -> None:
        """Submits the runs that wait, and waits for their jobs.

        Raises:
            UserError: the cluster refuses a job; those before it are submitted.
        """
        for job in self.jobs:
            if self.states[job.name] == "waiting" and not self._stop.is_set():
                try:
                    self._submitted[job.name] = self._executor.submit(TrainingJob(), job.overrides)
                except Exception as error:  # submitit's own types
                    raise UserError(f"{job.name} could not be submitted: {one_line(error)}") from error
        waiting = {job.name: job for job in self.jobs if job.name in self._submitted}
        while waiting and not self._stop.wait(LOOK_EVERY):
            for name, job in list(waiting.items()):
                if self._submitted[name].done():
                    self.states[name] = "finished" if is_finished(job) else "failed"
                    del waiting[name]
                elif self._submitted[name].state == "RUNNING":
                    self.states[name] = "running"

    def stop(self) -> None:
        """Stops waiting. The jobs stay in their queue."""
        self._stop.set()

    def output(self, job: Job) -> str:
        paths = self._submitted[job.name].paths
        return _text(paths.stdout) + _text(paths.stderr)


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def log_of(job: Job) -> Path:
    """Returns the file of a run's output, beside the folder of the study's runs."""
    folder = Path(job.config.run_dir)
    return folder.parent.with_name(f"{folder.parent.name}-logs") / f"{folder.name}.log"


def train_command(job: Job) -> list[str]:
    """Returns the command that trains a run, as a user would."""
    return [sys.executable, "-m", "denoised_mdp", "train", *job.overrides]


def table(runner: Runner, begun: float, steps_before: int) -> Table:
    """Returns the runs that are not waiting, a line for the others, and the time left."""
    shown = Table("run", "state", "env steps", box=None, pad_edge=False)
    steps = {job.name: progress(job)[0] for job in runner.jobs}
    for job in runner.jobs:
        if (state := runner.states[job.name]) not in ("waiting", "finished"):
            shown.add_row(job.name, state, f"{steps[job.name]:,} of {job.config.train.env_steps:,}")
    counts = {state: list(runner.states.values()).count(state) for state in ("finished", "waiting", "failed")}
    total = sum(job.config.train.env_steps for job in runner.jobs)
    done = sum(min(steps[job.name], job.config.train.env_steps) for job in runner.jobs)
    left = ""
    if done > steps_before:
        seconds = (total - done) / (done - steps_before) * (time.monotonic() - begun)
        left = f", about {timedelta(seconds=round(seconds))} left"
    shown.caption = f"{', '.join(f'{n} {state}' for state, n in counts.items() if n)} of {len(runner.jobs)} runs{left}"
    return shown


def _show(runner: Runner, ended: threading.Event) -> None:
    """Shows the table until the runner has ended: live on a terminal, as lines now and then elsewhere."""
    console, begun = Console(), time.monotonic()
    before = sum(min(progress(job)[0], job.config.train.env_steps) for job in runner.jobs)
    if not console.is_terminal:
        while not ended.wait(PRINT_EVERY):
            print(table(runner, begun, before).caption, flush=True)
        return
    with Live(table(runner, begun, before), console=console, auto_refresh=False) as live:
        while not ended.wait(SHOW_EVERY):
            live.update(table(runner, begun, before), refresh=True)


def named(text: str) -> Path:
    """An argparse type: returns the file of a study, given by a path or by a name in `studies/`."""
    path = expanded(text)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if text not in known:
        raise argparse.ArgumentTypeError(f"there is no study {text}{did_you_mean(text, known)}")
    return FOLDER / f"{text}.yaml"


def _job_setting(text: str) -> tuple[str, Any]:
    """An argparse type: returns name and value of name=value; a whole number is one."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text}: a setting of the jobs is name=value")
    return name, int(value) if value.isdecimal() and not value.startswith("0") else value


def _runner(todo: Sequence[Job], options: argparse.Namespace) -> Runner:
    if options.cluster is not None and options.jobs is not None:
        raise UserError("--jobs is for this machine: with --cluster all runs are submitted at once")
    if options.cluster is not None:
        return ClusterRunner(todo, cluster=options.cluster, settings=dict(options.job))
    if options.job:
        raise UserError("--job describes the jobs of --cluster, which is missing")
    return LocalRunner(todo, at_once=options.jobs or len(os.sched_getaffinity(0)))


def _lines(todo: Sequence[Job]) -> Iterator[str]:
    for job in todo:
        yield shlex.join(train_command(job))


def command() -> None:
    """Trains the runs of a study, or prints their commands."""
    parser = argparse.ArgumentParser(description="Trains the many runs of a study, a few at a time.")
    parser.add_argument("study", type=named, help="a YAML file, or the name of one in studies/")
    parser.add_argument("settings", nargs="*", help="further settings of every run")
    parser.add_argument("--out", type=expanded, help="the folder of the runs; default: runs/ and the study's name")
    parser.add_argument("--jobs", type=at_least(1), help="runs at a time; default: the number of cores")
    parser.add_argument("--cluster", help="submit the runs as jobs, by submitit: slurm, or local for this machine")
    parser.add_argument(
        "--job", type=_job_setting, action="append", default=[], help="a setting of the jobs, as in slurm_partition=gpu"
    )
    parser.add_argument("--print", action="store_true", help="print the commands of unfinished runs")
    options = parser.parse_args()
    out = options.out or Path("runs", options.study.stem)
    try:
        todo = jobs(load(options.study), out, options.settings)
        for job in todo:
            if not is_finished(job):
                run_dir.check(job.config)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    if options.print:
        print(*_lines([job for job in todo if not is_finished(job)]), sep="\n")
        return
    try:
        runner = _runner(todo, options)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
            signal.signal(number, lambda *_: runner.stop())
    shower = threading.Thread(target=_show, args=(runner, ended))
    shower.start()
    problem = None
    try:
        runner.run()
    except UserError as error:
        problem = error
    finally:
        ended.set()
        shower.join()
    if problem is not None:
        parser.exit(2, f"error: {problem}\n")
    _report(runner)


def _report(runner: Runner) -> None:
    """Prints the end of a study; exits with 1 if runs have failed."""
    failed = [name for name, state in runner.states.items() if state == "failed"]
    unfinished = sum(state != "finished" for state in runner.states.values())
    for job in runner.jobs:
        if job.name in failed:
            lines = [line for line in runner.output(job).split("\n") if line.strip()]
            print(f"{job.name} failed: {lines[-1] if lines else 'no output'}")
    if not unfinished:
        print(f"all {len(runner.jobs)} runs are finished: {Path(runner.jobs[0].config.run_dir).parent}")
    else:
        print(f"{unfinished} of {len(runner.jobs)} runs are unfinished; {runner.after_a_stop}")
    if failed:
        sys.exit(1)
