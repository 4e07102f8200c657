"""The training loop: collect -> learn -> evaluate -> log -> save. The only place where all sides meet.

A `Run` holds the state of one seed, in its folder; a `Training` executes the loop, most often with a single run.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from denoised_mdp.agent import Agent
from denoised_mdp.config import Config
from denoised_mdp.envs import reset_all, step_all
from denoised_mdp.errors import UserError, disk_errors
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.compilation import cache_programs
from denoised_mdp.runs.evaluation import evaluation_envs
from denoised_mdp.runs.progress import SHOWN, ProgressLine
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training import signals
from denoised_mdp.training.devices import END, Devices, join_processes
from denoised_mdp.training.learner import Learner, Made, Pace, Seed, SequentialLearner, as_it_is, check_metrics
from denoised_mdp.training.run import Run, defect
from denoised_mdp.training.speeds import Speeds

if TYPE_CHECKING:
    from denoised_mdp.training.vectorized import VectorizedAgent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
GO_ON = "fix that, then run the same command again: it resumes from the last checkpoint"


def train(*configs: Config) -> None:
    """Starts the run of `config.run_dir`, or goes on with it, to its end or to a signal.

    Several configurations, which differ by their seed alone, are trained together, but for those that are finished.

    Raises:
        UserError: a run cannot go on, or several stand at different env steps.
    """
    if configs[0].distributed:
        join_processes()
    configs = tuple(config for config in configs if not _is_finished(config))
    if not configs:
        return
    with _prepared(configs) as training:
        training.train() if training.devices.is_main_process else training.follow()
    if training.stop_signal is not None:
        if training.devices.is_main_process:
            stopped = f"stopped by {training.stop_signal} at env step {training.env_step}, saved"
            signals.say(f"{stopped}; run the same command to resume")
        signals.pass_on(training.stop_signal)
        raise SystemExit(0)  # a sweep ends too


@contextmanager
def _prepared(configs: Sequence[Config]) -> Iterator[Training]:
    """Yields the training, with the runs' folders locked; folders of new runs are made after all checks."""
    is_main_process = not configs[0].distributed or jax.process_index() == 0
    begun = [config for config in configs if is_main_process and (Path(config.run_dir) / run_dir.CONFIG).exists()]
    with ExitStack() as opened:
        locks = []
        for config in begun:
            locks.append(opened.enter_context(run_dir.locked(Path(config.run_dir))))
            checkpoint.set_aside_damaged(Path(config.run_dir), defect)
        _align(configs)
        cache_programs()
        training = Training(*configs)
        try:
            with disk_errors(configs[0].run_dir, GO_ON):
                for config in configs if is_main_process else ():
                    if config not in begun:
                        locks.append(opened.enter_context(run_dir.locked(Path(config.run_dir))))
                    run_dir.claim(config)
                training.locks = locks
                yield training
        finally:
            training.close()


def _is_finished(config: Config) -> bool:
    """Checks whether a run is finished; prints that it is."""
    folder = Path(config.run_dir)
    if (path := checkpoint.latest_sound(folder)) is None:
        return False
    progress = checkpoint.load_progress(path)
    if "imported_from" in progress:
        raise UserError(
            f"run_dir={folder} holds weights imported from {progress['imported_from']}, and no replay to go on with: "
            "they can be evaluated and looked at"
        )
    finished = progress["finished"] and progress["env_step"] >= config.train.env_steps
    if finished:
        print(f"{folder} is finished: {progress['env_step']} env steps; a larger train.env_steps goes on with it")
    return finished


def _align(configs: Sequence[Config]) -> None:
    """Makes runs that are trained together resume from the same env step.

    A kill while they were being saved leaves some of them one checkpoint ahead: these go back to the one before.

    Raises:
        UserError: they stand further apart.
    """
    paths = [checkpoint.all_of(Path(config.run_dir)) for config in configs]
    stands = [[int(path.name) for path in found] or [0] for found in paths]  # new runs are at 0
    newest = [steps[-1] for steps in stands]
    common = min(newest)
    if any(common not in steps[-2:] for steps in stands):
        seeds = ", ".join(f"seed {config.seed} at {step}" for config, step in zip(configs, newest, strict=True))
        late, furthest = configs[newest.index(common)], max(newest)
        raise UserError(
            f"the seeds stand at different env steps ({seeds}): first train each late one, alone, to the same env "
            f"step, for example with seed={late.seed} run_dir={late.run_dir} train.env_steps={furthest} without seeds"
        )
    for config, found in zip(configs, paths, strict=True):
        if found and int(found[-1].name) > common:
            print(f"{config.run_dir} goes back to env step {common}, the newest that all seeds have a checkpoint of")
            checkpoint.remove(found[-1])


class Training:
    """The loop, for runs that differ by their seed alone and so do everything at the same env steps."""

    learner: Learner  # from `train` on

    def __init__(self, *configs: Config):
        self.config = configs[0]  # of all runs, except seed and run_dir
        self.devices = Devices(self.config.devices, self.config.train.batch_size, seeds=len(configs))
        self.eval_envs = evaluation_envs(self.config)  # of all, as each evaluation starts them anew
        self.agent = Agent(self.config, self.eval_envs[0].action_size)
        self.runs = [
            Run(config, self.agent, self.eval_envs, self.devices, own_line=len(configs) == 1) for config in configs
        ]
        self.envs = [env for run in self.runs for env in run.envs]
        self.vectorized = self._vectorized()
        self.updates_per_call = self._updates_per_call()
        shape = (self.updates_per_call, self.config.train.batch_length, self.config.train.batch_size)
        check_metrics(self.agent, self.runs[0].replay.dtype, shape)
        self.speeds = Speeds()
        self.line: ProgressLine | None = None  # of several runs; a single run uses its logger's
        self.locks: Sequence[run_dir.Lock] = ()  # of the runs' folders, if they are locked
        self.stop_signal: str | None = None
        self.closing = False
        self._closers = ExitStack()

    @property
    def env_step(self) -> int:
        """The env step of every run."""
        return self.runs[0].env_step

    @property
    def at_the_end(self) -> bool:
        """Whether all env steps have been collected."""
        return self.env_step >= self.config.train.env_steps

    def train(self) -> None:
        """Continues to the end, or to a signal, and saves a checkpoint of every run in either case."""
        self._start()
        with self._signals(), self._logging():
            self._save(lambda run: run.saved is None)
            while True:
                owed = self._updates_owed()
                if owed or self.at_the_end:
                    with self.speeds.waiting():
                        made = self.learner.learn(owed, self._contents(owed))
                    self._record(made)
                    self._finish_in_flight()
                if not self.learner.in_flight:  # else these wait, for at most `train.every` env steps
                    self._evaluate()
                    if self.stop_signal is not None:  # before another step, so that the rest of this one comes first
                        break
                    if self.at_the_end:
                        for run in self.runs:
                            run.finish()
                        break
                    self._save(Run.checkpoint_due)
                    if owed:
                        self.learner.publish_parameters()
                self._check_locks()  # updates and an evaluation may have taken minutes
                with self.speeds.acting():
                    self._collect()
                self._show_progress()
            self._save(lambda run: True)
            self.devices.broadcast(END)
        if self.stop_signal is None:
            for run in self.runs:
                run.check_learned()

    def follow(self) -> None:
        """Computes this process's share of the updates to the end, in a process that is not the main one."""
        self._start()
        with self._signals():
            from denoised_mdp.training.devices import follow

            follow(self.learner, self.devices, self.runs[0].replay)

    def close(self) -> None:
        """Frees the simulators and files: a sweep goes on in this process."""
        self.closing = True
        self._closers.close()
        for env in (*self.envs, *self.eval_envs):
            env.close()
        for run in self.runs:
            run.replay.close()

    def _start(self) -> None:
        """Restores every run, in all processes from the same checkpoint."""
        paths = [checkpoint.latest(run.folder) for run in self.runs]
        names = self.devices.broadcast([path.name if path else None for path in paths])
        snapshots = [run.restore(name) for run, name in zip(self.runs, names, strict=True)]
        self.devices.broadcast()  # the others have read the checkpoint too
        self.learner = self._new_learner(
            [Seed(snapshot, run.keys, run.sample) for run, snapshot in zip(self.runs, snapshots, strict=True)]
        )

    def _new_learner(self, seeds: Sequence[Seed]) -> Learner:
        """Returns the learner that the configuration selects: by default a plain `SequentialLearner`.

        The others are imported by those who ask for them.
        """
        pace = Pace(self.updates_per_call, self._interrupted, self.speeds)
        if self.config.train.staleness > 0:
            from denoised_mdp.training.background import BackgroundLearner, copied_to_cpu

            learner = self._foreground_learner(seeds, pace, copied_to_cpu)
            if not self.devices.is_main_process:
                return learner
            return self._closers.enter_context(closing(BackgroundLearner(learner)))
        return self._foreground_learner(seeds, pace, as_it_is)

    def _foreground_learner(self, seeds: Sequence[Seed], pace: Pace, to_actor: Callable[[Any], Any]) -> Learner:
        """Returns a learner whose updates are complete when `learn` returns."""
        if self.vectorized is not None:
            from denoised_mdp.training.vectorized import VectorizedLearner

            learner = VectorizedLearner(self.vectorized, seeds, pace, self.devices, to_actor=to_actor)
        elif self.devices.several:
            from denoised_mdp.training.devices import DividedLearner

            learner = DividedLearner(self.agent, seeds, pace, self.devices, to_actor=to_actor)
        else:
            learner = SequentialLearner(self.agent, seeds, pace, to_actor=to_actor)
        if self.devices.is_main_process and self.devices.processes > 1:
            from denoised_mdp.training.devices import BroadcastingLearner

            return BroadcastingLearner(learner, self.devices)
        return learner

    def _vectorized(self) -> VectorizedAgent | None:
        """Returns the programs of several seeds; None where one seed learns, or where they take turns."""
        if len(self.runs) == 1:
            return None
        from denoised_mdp.training.vectorized import vectorized_agent

        return vectorized_agent(self.agent, len(self.runs), self.devices)

    def _updates_per_call(self) -> int:
        """Returns a divisor of `train.updates`, so that twice the batches of a call fit `replay.memory_mb`."""
        train, seeds = self.config.train, len(self.runs)
        batch_bytes = train.batch_size * train.batch_length * self.runs[0].replay.dtype.itemsize
        held = seeds if self.vectorized is None else 2 * seeds  # each by itself, and all on one axis
        fits = max(1, self.config.replay.memory_mb * 2**20 // (2 * held * batch_bytes))
        return max(n for n in range(1, min(fits, train.updates) + 1) if train.updates % n == 0)

    def _interrupted(self) -> bool:
        """Checks whether updates stop now; in the background or in several processes their block is finished first."""
        at_once = not self.config.train.staleness and self.devices.processes == 1
        return self.closing or (self.stop_signal is not None and at_once)

    def _updates_owed(self) -> dict[int, int]:
        """Returns the number of updates that are due, by seed."""
        in_flight = self.learner.in_flight
        return {i: owed for i, run in enumerate(self.runs) if (owed := run.updates_owed(in_flight.get(i, 0)))}

    def _contents(self, owed: Mapping[int, int]) -> dict[int, Replay]:
        """Returns the replays of these seeds, written to the disk where other processes read them."""
        if self.devices.processes > 1:
            self.runs[0].replay.flush()
        return {i: self.runs[i].replay for i in owed}

    def _record(self, made: Made) -> None:
        """Counts and logs updates that have been made."""
        if made:
            speeds = self.speeds.metrics(max(updates for updates, _ in made.values()))
            for i, (updates, means) in made.items():
                self.runs[i].record_updates(updates, means, speeds)

    def _finish_in_flight(self) -> None:
        """Makes the last updates, which a background learner has only accepted, at the end of training."""
        if self.at_the_end and self.config.train.staleness:
            self.learner.publish_parameters()
            with self.speeds.waiting():
                made = self.learner.learn({}, {})
            self._record(made)

    def _collect(self) -> None:
        """Takes one agent step in every environment; resets it first where an episode begins."""
        if self.config.replay.source is not None:  # env steps only pace the updates, so that plots stay comparable
            for run in self.runs:
                run.advance(self.config.train.every)
            return
        each = self.config.train.envs
        steps = [step for run in self.runs for step in run.steps]
        over = [k for k, step in enumerate(steps) if step is None or step.is_last]
        for k, step in reset_all(self.envs, over).items():
            self.runs[k // each].begin_episode(k % each, step)
        actions = self._actions()
        for k, step in step_all(self.envs, dict(enumerate(actions))).items():
            self.runs[k // each].add(k % each, actions[k], step)
        for run in self.runs:
            run.log_episodes()

    def _actions(self) -> np.ndarray:
        """Returns the next actions in all environments, [S * N, A]: random in the prefill, then exploration."""
        if self.env_step < self.config.train.prefill:
            return np.concatenate([run.random_actions() for run in self.runs])
        steps = [[step for step in run.steps if step is not None] for run in self.runs]
        observation = np.stack([[step.observation for step in of_run] for of_run in steps])
        is_first = np.array([[step.is_first for step in of_run] for of_run in steps])
        actions = self.learner.act(observation, is_first, self.env_step)
        return actions.reshape(-1, self.agent.action_size)

    def _evaluate(self) -> None:
        for i, run in enumerate(self.runs):
            if self.stop_signal is None and (due := run.evaluations_due()):
                run.evaluate(self.learner.snapshot(i).state, due)

    def _save(self, is_due: Callable[[Run], bool]) -> None:
        for i, run in enumerate(self.runs):
            if is_due(run):
                self._check_locks()
                run.save(self.learner.snapshot(i))

    def _check_locks(self) -> None:
        for lock in self.locks:
            lock.check()

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """Opens a logger for every run, and one progress line for several runs together."""
        with ExitStack() as opened:
            for run in self.runs:
                opened.enter_context(run.logger)
                run.logger.start(run.env_step or None)
            if len(self.runs) > 1 and self.config.logger.progress:
                speed = self.runs[0].logger.speed  # the same for each
                self.line = ProgressLine(self.config.train.env_steps, speed, seeds=len(self.runs))
                opened.enter_context(closing(self.line))
            yield

    def _show_progress(self) -> None:
        for run in self.runs:
            run.logger.progress(run.env_step)
        if self.line is not None:
            latest = [run.logger.latest for run in self.runs]
            known = [name for name in (*SHOWN, "speed/updates_per_second") if all(name in of_run for of_run in latest)]
            self.line.update(self.env_step, {name: sum(m[name] for m in latest) / len(latest) for name in known})

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Lets Ctrl-C and its like end the loop at its next safe place; SIGHUP not under nohup, which ignores it."""

        def note(number: int, _: FrameType | None) -> None:
            self.stop_signal = signal.Signals(number).name

        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        previous = {s: signal.signal(s, note) for s in SIGNALS if not (s == signal.SIGHUP and nohup)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
