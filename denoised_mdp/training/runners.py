"""How the runs of a study are trained: as processes of this machine, or as jobs of a cluster."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from denoised_mdp.errors import UserError, one_line
from denoised_mdp.runs.study import Job, is_finished, log_of, train_command

LOOK_EVERY = 1.0  # seconds between two looks at the jobs of a cluster
SLURM_QUEUES_AGAIN = {"slurm_max_num_timeout": 1000}  # times; as configs/hydra/launcher/slurm.yaml, and so is the next
JOB = {"timeout_min": 600, "slurm_signal_delay_s": 300, "slurm_additional_parameters": {"requeue": True}}

State = Literal["waiting", "running", "finished", "stopped", "failed"]


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


class ClusterRunner:
    """Submits all runs at once as jobs, each in a process of its own, and waits for them."""

    after_a_stop = "jobs of SLURM train on; once its queue is empty, the same command submits the others"

    def __init__(
        self,
        todo: Sequence[Job],
        train: Callable[[Sequence[str]], None],
        *,
        cluster: str,
        settings: Mapping[str, Any],
    ):
        """train: makes a run from its overrides, in a job; cluster: slurm, or local for this machine.

        settings: of the jobs, as submitit's AutoExecutor takes them.

        Raises:
            UserError: submitit is not installed, there is no such cluster here, or a setting is unknown or wrong.
        """
        self.jobs, self._train = todo, train
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
                    self._submitted[job.name] = self._executor.submit(self._train, job.overrides)
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
