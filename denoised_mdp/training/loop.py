"""The training loop: collect -> learn -> evaluate -> log -> save. The only place where all sides meet.

A `Run` is what belongs to one seed, in its folder; a `Training` goes through the loop, most often with a single run.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from denoised_mdp.agent import Agent
from denoised_mdp.config import Config
from denoised_mdp.envs import reset_all, step_all
from denoised_mdp.errors import UserError, one_line
from denoised_mdp.runs import checkpoint, run_dir
from denoised_mdp.runs.compilation import cache_programs
from denoised_mdp.runs.evaluation import evaluation_envs
from denoised_mdp.runs.progress import SHOWN, ProgressLine
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training import signals
from denoised_mdp.training.background import Blocks, two_at_most
from denoised_mdp.training.devices import Devices, join_processes
from denoised_mdp.training.run import COLLECT, LEARN, Run
from denoised_mdp.training.seeds import InTurn, Keys, Metrics, Together, side_by_side

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # what a disk may refuse to write for
END = "end"  # told to the processes that follow


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
    with ExitStack() as locks:
        training = _run(configs, locks)
    if training.stop_signal is not None:
        if training.devices.leads:
            stopped = f"stopped by {training.stop_signal} at env step {training.env_step}, saved"
            signals.say(f"{stopped}; the same command goes on")
        signals.pass_on(training.stop_signal)
        raise SystemExit(0)  # a sweep ends too


def _run(configs: Sequence[Config], locks: ExitStack) -> Training:
    """Trains, with the runs' folders locked, of which those that are new are made only once all has been checked."""
    leads = not configs[0].distributed or jax.process_index() == 0
    begun = [config for config in configs if leads and (Path(config.run_dir) / run_dir.CONFIG).exists()]
    for config in begun:
        locks.enter_context(run_dir.locked(Path(config.run_dir)))
        checkpoint.set_aside_damaged(Path(config.run_dir))
    _level(configs)
    cache_programs()
    training = Training(*configs)
    try:
        if leads:
            for config in configs:
                if config not in begun:
                    locks.enter_context(run_dir.locked(Path(config.run_dir)))
                run_dir.claim(config)
        training.train() if training.devices.leads else training.follow()
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise UserError(
            f"run_dir={configs[0].run_dir}: {one_line(error)}; once that is mended the same command goes on from the "
            "last checkpoint"
        ) from error
    finally:
        training.close()
    return training


def _is_finished(config: Config) -> bool:
    """Whether a run has nothing left to do, which is told."""
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


def _level(configs: Sequence[Config]) -> None:
    """Has runs that are to go on together do so from the same env step.

    A kill while they were being saved leaves some of them one checkpoint ahead: these go back to the one before.

    Raises:
        UserError: they stand further apart.
    """
    paths = [checkpoint.all_of(Path(config.run_dir)) for config in configs]
    stands = [[int(path.name) for path in found] or [0] for found in paths]  # who has not begun stands at 0
    newest = [steps[-1] for steps in stands]
    common = min(newest)
    if any(common not in steps[-2:] for steps in stands):
        seeds = ", ".join(f"seed {config.seed} at {step}" for config, step in zip(configs, newest, strict=True))
        late, furthest = configs[newest.index(common)], max(newest)
        raise UserError(
            f"the seeds stand at different env steps ({seeds}): first bring the late ones level, each alone, as by "
            f"seed={late.seed} run_dir={late.run_dir} train.env_steps={furthest} without seeds"
        )
    for config, found in zip(configs, paths, strict=True):
        if found and int(found[-1].name) > common:
            print(f"{config.run_dir} goes back to env step {common}, the newest that all seeds have a checkpoint of")
            checkpoint.remove(found[-1])


class Training:
    """The loop, for runs that differ by their seed alone and so do everything at the same env steps."""

    agents: InTurn | Together  # from `train` on

    def __init__(self, *configs: Config):
        self.config = configs[0]  # that of all, but for seed and run_dir
        self.devices = Devices(self.config.devices, self.config.train.batch_size, seeds=len(configs))
        self.eval_envs = evaluation_envs(self.config)  # of all, as each evaluation starts them anew
        self.agent = Agent(self.config, self.eval_envs[0].action_size)
        self.runs = [
            Run(config, self.agent, self.eval_envs, self.devices, progress=len(configs) == 1) for config in configs
        ]
        self.envs = [env for run in self.runs for env in run.envs]
        self.mapped = side_by_side(self.agent, len(self.runs), self.devices)
        self.blocks = Blocks(beside=self.config.train.staleness > 0)
        self.line: ProgressLine | None = None  # of several runs; that of one is its logger's
        self.stop_signal: str | None = None
        self.closing = False

    @property
    def env_step(self) -> int:
        """Where every run is."""
        return self.runs[0].env_step

    def train(self) -> None:
        """Goes on to the end, or to a signal, and leaves a checkpoint of every run in either case."""
        self._start()
        with self._signals(), ExitStack() as opened:
            for run in self.runs:
                opened.enter_context(run.logger)
                run.logger.start(run.env_step or None)
            if len(self.runs) > 1 and self.config.logger.progress:
                speed = self.runs[0].logger.speed  # that of each
                self.line = ProgressLine(self.config.train.env_steps, speed, seeds=len(self.runs))
                opened.enter_context(closing(self.line))
            self._save(lambda run: run.saved[0] < 0)  # early, so that each has something to go on from
            while True:
                self._learn()
                if not self.blocks.under_way:  # else these wait, for at most `train.every` env steps
                    self._evaluate()
                    if self.stop_signal is not None:  # before another step, so that the rest of this one comes first
                        break
                    if self.env_step >= self.config.train.env_steps:
                        for run in self.runs:
                            run.finished = run.updates > 0
                        break
                    self._save(lambda run: run.is_due(run.config.checkpoint.every, since=run.saved[0]))
                    self._begin_block()
                with self.blocks.acting():
                    self._collect()
                self._show_progress()
            self._save(lambda run: True)
            self.devices.tell(END)
        if self.stop_signal is None:
            for run in self.runs:
                run.check_learned()

    def follow(self) -> None:
        """In a process that does not lead: the updates that it is told to compute its share of, to the end."""
        self._start()
        (run,) = self.runs
        with self._signals():
            while (block := self.devices.tell()) != END:
                run.replay.restore(block["replay"])
                self._block({0: block["updates"]}, {0: run.replay})

    def close(self) -> None:
        """Frees the simulators and files: a sweep goes on in this process."""
        self.closing = True
        self.blocks.close()
        for env in (*self.envs, *self.eval_envs):
            env.close()
        for run in self.runs:
            run.replay.close()

    def _start(self) -> None:
        """Where every run goes on from; in all processes from the same checkpoint."""
        paths = [checkpoint.latest(run.folder) for run in self.runs]
        names = self.devices.tell([path.name if path else None for path in paths])
        minds = [run.restore(name) for run, name in zip(self.runs, names, strict=True)]
        self.devices.tell()  # the others have read the checkpoint too
        keys = [Keys(learn=run.keys[LEARN], collect=run.keys[COLLECT]) for run in self.runs]
        stale = self.config.train.staleness > 0
        if self.mapped:
            self.agents = Together(self.mapped, minds, keys, self.devices, stale=stale)
        else:
            self.agents = InTurn(self.agent, minds, keys, self.devices, stale=stale)

    def _collect(self) -> None:
        """One agent step in every environment; a reset first, where an episode begins."""
        if self.config.replay.source is not None:  # env steps only pace the updates, so that plots stay comparable
            for run in self.runs:
                run.env_step += self.config.train.every
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
        """What to do next in all environments, [S * N, A]: random during the prefill, then what the policy explores."""
        if self.env_step < self.config.train.prefill:
            return np.concatenate([run.random_actions() for run in self.runs])
        steps = [[step for step in run.steps if step is not None] for run in self.runs]
        observation = np.stack([[step.observation for step in of_run] for of_run in steps])
        is_first = np.array([[step.is_first for step in of_run] for of_run in steps])
        actions = self.agents.act(observation, is_first, self.env_step)
        return actions.reshape(-1, self.agent.action_size)

    def _learn(self) -> None:
        """Where updates are due: waits for those that are under way, and, without staleness, does the next at once."""
        at_the_end = self.env_step >= self.config.train.env_steps
        if any(run.updates_owed() for run in self.runs) or at_the_end:
            self._end_block()
            if at_the_end or not self.config.train.staleness:
                self._begin_block()
                self._end_block()

    def _begin_block(self) -> None:
        """Begins the updates that are owed; what has been collected by now is what they sample from."""
        owed = {i: updates for i, run in enumerate(self.runs) if (updates := run.updates_owed())}
        if not owed:
            return
        contents = {i: self.runs[i].replay for i in owed}
        if self.config.train.staleness:
            contents = {i: replay.snapshot() for i, replay in contents.items()}
            self.agents.hand_over()
        for i, updates in owed.items():
            self.runs[i].begun = updates
        if self.devices.processes > 1:
            self.runs[0].replay.flush()
            self.devices.tell({"replay": contents[0].index(), "updates": owed[0]})
        self.blocks.begin(partial(self._block, owed, contents))

    def _block(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> dict[int, list[tuple[int, Metrics]]]:
        """So many updates of each run: how many each chunk made, and their mean metrics."""
        made: dict[int, list[tuple[int, Metrics]]] = {i: [] for i in owed}
        for updates, found in two_at_most(self._chunks(owed, contents)):
            for i, metrics in found.items():
                made[i].append((updates, metrics))
        return made

    def _chunks(
        self, owed: Mapping[int, int], contents: Mapping[int, Replay]
    ) -> Iterator[tuple[int, dict[int, Metrics]]]:
        """These updates in equal chunks, each under way; one of another length would compile anew."""
        samplers = {i: self.runs[i].sampler(replay) for i, replay in contents.items()}
        at_once = not self.config.train.staleness and self.devices.processes == 1  # else a stop waits for the block
        while owed and not (self.closing or (self.stop_signal is not None and at_once)):
            updates = min(self._chunk(), *owed.values())
            yield updates, self.agents.train_chunk({i: partial(samplers[i], updates) for i in owed})
            owed = {i: left for i, n in owed.items() if (left := n - updates)}

    def _end_block(self) -> None:
        """Waits for the updates that are under way, takes over what they have learned and logs it."""
        if not self.blocks.under_way:
            return
        made = self.blocks.end()
        speeds = self.blocks.speeds(max(sum(n for n, _ in chunks) for chunks in made.values()))
        for i, chunks in made.items():
            self.runs[i].took(chunks, speeds)
        if not self.config.train.staleness:
            self.agents.hand_over()

    def _chunk(self) -> int:
        """So many updates at a time, a divisor of `train.updates`, that twice their batches fit `replay.memory_mb`."""
        train = self.config.train
        batch_bytes = train.batch_size * train.batch_length * self.runs[0].replay.dtype.itemsize
        fits = max(1, self.config.replay.memory_mb * 2**20 // (2 * self.agents.batches_held * batch_bytes))
        return max(n for n in range(1, min(fits, train.updates) + 1) if train.updates % n == 0)

    def _evaluate(self) -> None:
        for i, run in enumerate(self.runs):
            if self.stop_signal is None and (wanted := run.wanted()):
                run.evaluate(self.agents[i].state, wanted)

    def _save(self, is_due: Callable[[Run], bool]) -> None:
        for i, run in enumerate(self.runs):
            if is_due(run):
                run.save(self.agents[i])

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
