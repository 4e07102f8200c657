"""Studies: many runs that a YAML file describes, a few at a time, each by the ordinary training command.

A study may be stopped at any time: the same command skips finished runs and resumes the others. Ctrl-C lets the runs
save; after a kill of the study itself they train on, each to its end. As jobs of SLURM (submitit) they train
on after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from denoised_mdp import variables
from denoised_mdp.commands import train
from denoised_mdp.config.compose import compose_seeds
from denoised_mdp.errors import UserError, at_least, did_you_mean, expanded
from denoised_mdp.runs import run_dir
from denoised_mdp.runs.study import Job, is_finished, jobs, load, progress, train_command
from denoised_mdp.training.runners import ClusterRunner, LocalRunner, Runner

FOLDER = Path(__file__).parent.parent / "studies"
SHOW_EVERY = 2.0  # seconds between two looks at the runs
PRINT_EVERY = 60.0  # seconds between two lines where there is no terminal


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
        return ClusterRunner(todo, TrainingJob(), cluster=options.cluster, settings=dict(options.job))
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
