"""The training loop: collect -> learn -> evaluate -> log -> save. The only place where all sides meet.

A `Run` is what belongs to one seed, in its folder; a `Training` goes through the loop, most often with a single run.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import jax
import numpy as np

from denoised_mdp import checkpoint, requeue, run_dir, visualize
from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.compilation import cache_programs
from denoised_mdp.config import Config
from denoised_mdp.device_replay import DeviceReplay, Gathered, rows_needed
from denoised_mdp.envs import AnyEnv, Step, reset_all, step_all
from denoised_mdp.errors import UserError
from denoised_mdp.evaluation import evaluation_envs, rollout, summary, training_envs
from denoised_mdp.logger import Logger
from denoised_mdp.overlap import Blocks, two_at_most
from denoised_mdp.parallel import Devices, join_processes
from denoised_mdp.prefill import HOLD, PREFILLS
from denoised_mdp.progress import SHOWN, ProgressLine
from denoised_mdp.replay import Batch, Replay
from denoised_mdp.seeds import InTurn, Keys, Metrics, Mind, Together, side_by_side

if TYPE_CHECKING:
    from denoised_mdp.analysis.monitor import Monitor

_log = logging.getLogger(__name__)

# The independent random streams of a run. Every draw is also folded with the env step or update it belongs to, so
# that a resumed run draws what an uninterrupted one would.
INITIALISE, COLLECT, LEARN, EVALUATE = range(4)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
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
    _level(configs)
    cache_programs()
    training = Training(*configs)
    if training.devices.leads:
        for config in configs:
            run_dir.claim(config)  # the first thing written
    try:
        training.train() if training.devices.leads else training.follow()
    finally:
        training.close()
    if training.stop_signal is not None:
        if training.devices.leads:
            stopped = f"stopped by {training.stop_signal} at env step {training.env_step}, saved"
            print(f"{stopped}; the same command goes on", flush=True)
        requeue.pass_on(training.stop_signal)
        raise SystemExit(0)  # a sweep ends too


def _is_finished(config: Config) -> bool:
    """Whether a run has nothing left to do, which is told."""
    folder = Path(config.run_dir)
    if (path := checkpoint.latest(folder)) is None:
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
                            run.finished = True
                        break
                    self._save(lambda run: run.is_due(run.config.checkpoint.every, since=run.saved[0]))
                    self._begin_block()
                with self.blocks.acting():
                    self._collect()
                self._show_progress()
            self._save(lambda run: True)
            self.devices.tell(END)

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
        """Lets Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 end the loop at its next safe place."""

        def note(number: int, _: FrameType | None) -> None:
            self.stop_signal = signal.Signals(number).name

        previous = {s: signal.signal(s, note) for s in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class Run:
    """What belongs to one seed, in one folder; its last checkpoint holds all it needs to go on exactly.

    What its agent has learned is not here, as that of several seeds may lie in the same arrays: a `Mind` is passed.
    """

    def __init__(self, config: Config, agent: Agent, eval_envs: Sequence[AnyEnv], devices: Devices, *, progress: bool):
        """`progress`: whether to have a line of its own, if the configuration wants one."""
        self.config, self.folder = config, Path(config.run_dir)
        self.envs = training_envs(config)
        self.eval_envs = eval_envs
        self.agent, self.devices = agent, devices
        self.keys = jax.random.split(jax.random.key(config.seed), 4)
        self.rng = np.random.default_rng(config.seed)
        self.collects = config.replay.source is None
        self.replay = self._open_replay()
        self.on_device = self._open_device_replay() if config.replay.device else None
        self.logger = Logger(
            self.folder,
            total_env_steps=config.train.env_steps,
            tensorboard=config.logger.tensorboard,
            wandb_mode=config.logger.wandb,
            progress=progress and config.logger.progress,
            config=config.model_dump(),
        )
        self.steps: list[Step | None] = [None] * len(self.envs)  # the current ones; None before the first reset
        self.episode_returns, self.episode_lengths = [0.0] * len(self.envs), [0] * len(self.envs)
        self.env_step = self.updates = self.begun = 0  # begun: updates under way
        self.evaluated_at = -1
        self.finished = False
        self.saved = (-1, 0, -1, False)  # env step, updates, last evaluation, finished: of the newest checkpoint
        self.warned = False
        self.monitor: Monitor | None = None  # made when it is first wanted

    def _open_replay(self) -> Replay:
        shapes = {"observation_shape": self.envs[0].observation_shape, "action_size": self.envs[0].action_size}
        replay = self.config.replay
        if replay.source is not None:
            source = Replay.open(replay.source, include_running=replay.include_running, **shapes)
            if not source.can_sample(self.config.train.batch_length):
                raise UserError(
                    f"replay.source={replay.source} has no finished episode of train.batch_length="
                    f"{self.config.train.batch_length} steps"
                )
            return source
        ours = Replay(
            self.folder / "replay",
            capacity=replay.capacity,
            factors=self.envs[0].factor_specs if replay.factors else None,
            include_running=replay.include_running,
            **shapes,
        )
        return ours if self.devices.leads else ours.snapshot()

    def _open_device_replay(self) -> DeviceReplay:
        train, env = self.config.train, self.config.env
        ours = rows_needed(
            capacity=self.config.replay.capacity,
            env_steps=train.env_steps,
            action_repeat=env.action_repeat,
            episode_frames=env.episode_frames,
            envs=train.envs,
        )
        rows = ours if self.collects else self.replay.num_steps
        return DeviceReplay(self.replay.dtype, rows, self.devices.whole)

    def is_due(self, every: int, *, since: int) -> bool:
        """Whether a multiple of `every` env steps lies after `since`, up to now."""
        return self.env_step // every > since // every

    def begin_episode(self, i: int, step: Step) -> None:
        """Environment i has been reset."""
        self.steps[i], self.episode_returns[i], self.episode_lengths[i] = step, 0.0, 0
        self.replay.add(step, stream=i)

    def add(self, i: int, action: np.ndarray, step: Step) -> None:
        """Environment i has taken an action [A], which led to `step`."""
        self.steps[i] = step
        self.replay.add(step, action, stream=i)
        self.env_step += self.envs[i].action_repeat
        self.episode_returns[i] += step.reward
        self.episode_lengths[i] += 1
        if step.is_terminal and not self.config.model.continue_head and not self.warned:
            self.warned = True
            _log.warning("%s ends episodes for good: model.continue_head=true would learn it", self.config.env.task)

    def log_episodes(self) -> None:
        """What the episodes earned that have just ended, if there are any."""
        ended = [i for i, step in enumerate(self.steps) if step is not None and step.is_last]
        if ended:
            metrics = {
                "train/return": float(np.mean([self.episode_returns[i] for i in ended])),
                "train/length": float(np.mean([self.episode_lengths[i] for i in ended])),
                "replay/steps": self.replay.num_steps,
                "replay/episodes": self.replay.num_episodes,
            }
            self.logger.log(self.env_step, metrics)

    def random_actions(self) -> np.ndarray:
        """The prefill's, [N, A]."""
        stretch = HOLD * self.config.env.action_repeat * len(self.envs)
        act, shape = PREFILLS[self.config.train.prefill_policy], (len(self.envs), self.agent.action_size)
        return act(self.keys[COLLECT], self.env_step, stretch, shape)

    def updates_owed(self) -> int:
        """What is missing, and not under way, to `train.updates` for each `train.every` env steps since the prefill."""
        train = self.config.train
        blocks = self.env_step // train.every - -(-train.prefill // train.every) + 1
        owed = train.updates * max(0, blocks) - self.updates - self.begun
        return owed if owed > 0 and self.replay.can_sample(train.batch_length) else 0

    def sampler(self, contents: Replay) -> Callable[[int], Batch | Gathered]:
        """What draws the batches [K, T, B] of K updates: from the copy on the device, or from the disk.

        Of several processes each reads its share of B there.
        """
        if self.on_device is None:
            sample = partial(contents.sample, columns=self.devices.columns)
        else:
            self.on_device.update(contents)
            sample = self.on_device.sample
        return lambda updates: sample(self.rng, updates, self.config.train.batch_length, self.config.train.batch_size)

    def took(self, chunks: Sequence[tuple[int, Metrics]], speeds: Mapping[str, float]) -> None:
        """These updates have been made, in chunks with their mean metrics.

        Raises:
            UserError: the loss is not finite.
        """
        self.updates, self.begun = self.updates + sum(n for n, _ in chunks), 0
        if not chunks:
            return
        means = {name: float(np.mean([metrics[name] for _, metrics in chunks])) for name in chunks[0][1]}
        if not np.isfinite(means["model/loss"] + means["policy/actor_loss"] + means["policy/critic_loss"]):
            raise UserError(
                f"the loss is not finite at env step {self.env_step} of {self.folder}; the last checkpoint is of env "
                f"step {self.saved[0]}: lower the learning rates, or look at what the environment rewards"
            )
        means["train/updates"] = self.updates
        means["speed/env_steps_per_second"] = self.logger.env_steps_per_second or 0.0
        self.logger.log(self.env_step, {**means, **speeds})

    def wanted(self) -> set[str]:
        """What an evaluation is due of: returns, a film, the analysis."""
        evaluate, analysis = self.config.evaluate, self.config.analysis
        every = {"returns": evaluate.every, "film": evaluate.video_every, "analysis": analysis.every}
        wanted = {name for name, n in every.items() if n is not None and self.is_due(n, since=self.evaluated_at)}
        at_the_end = self.evaluated_at < self.env_step >= self.config.train.env_steps
        return wanted | {"returns"} if at_the_end else wanted

    def evaluate(self, state: TrainState, wanted: set[str]) -> None:
        """The held-out returns, and now and then a picture of what the model believes, and what its parts know."""
        if "analysis" in wanted:
            self._analyse(state)
        if wanted & {"returns", "film"}:
            self._rollout(state, film="film" in wanted)
        self.evaluated_at = self.env_step

    def _analyse(self, state: TrainState) -> None:
        """How the parts share the truth, and the alarm if one is due; an untrained model has no part to speak of."""
        from denoised_mdp.analysis.monitor import Monitor  # scikit-learn: seconds that only those who ask wait for

        if self.monitor is None:
            analysis, seed = self.config.analysis, self.config.evaluate.seed
            self.monitor = Monitor(self.eval_envs[: analysis.clips], repeats=analysis.repeats, seed=seed)
        metrics, alarms = self.monitor(state.world_model)
        self.logger.log(self.env_step, metrics)
        for alarm in alarms if self.updates else ():
            _log.warning("env step %d: %s", self.env_step, alarm.text)

    def _rollout(self, state: TrainState, *, film: bool) -> None:
        evaluate = self.config.evaluate
        key, draw_key = jax.random.split(jax.random.fold_in(self.keys[EVALUATE], self.env_step))
        episodes = rollout(self.agent, state, self.eval_envs, key, seed=evaluate.seed, record=int(film))
        self.logger.log(self.env_step, summary(episodes))
        if film:
            rows = visualize.decompose(state.world_model, episodes[0].observation, episodes[0].action, draw_key)
            picture, video = visualize.write(self.folder / "videos" / f"{self.env_step:09d}", rows)
            self.logger.image(self.env_step, "evaluate/picture", picture)
            self.logger.video(self.env_step, "evaluate/video", video)

    def save(self, mind: Mind) -> None:
        """A checkpoint: arrays of the agent, and as plain data whatever else the next step depends on."""
        now = (self.env_step, self.updates, self.evaluated_at, self.finished)
        if now == self.saved:
            return
        self.saved = now
        self.logger.flush()
        progress = {
            "env_step": self.env_step,
            "finished": self.finished,
            "evaluated_at": self.evaluated_at,
            "updates": self.updates,
            "episode_returns": self.episode_returns,
            "episode_lengths": self.episode_lengths,
            "sampling": self.rng.bit_generator.state,
        }
        progress["replay"] = self.replay.index()
        if self.collects:
            self.replay.flush()
            progress["envs"] = [env.state() for env in self.envs]
        checkpoint.save(self.folder, self.env_step, tuple(mind), progress, keep=self.config.checkpoint.keep)
        if self.collects:
            self.replay.release(checkpoint.load_progress(checkpoint.all_of(self.folder)[0])["replay"])

    def restore(self, name: str | None) -> Mind:
        """Goes back to the checkpoint of that name, or to the beginning; returns the agent's part of it."""
        mind = Mind(self.agent.create(self.keys[INITIALISE]), self.agent.initial(len(self.envs)))
        if name is None:
            if self.collects and self.devices.leads:
                self.replay.restore(None)
            return mind
        path = self.folder / checkpoint.FOLDER / name
        progress = checkpoint.load_progress(path)
        mind = Mind._make(checkpoint.load_state(path, tuple(mind)))
        self.env_step, self.updates = progress["env_step"], progress["updates"]
        self.evaluated_at = progress["evaluated_at"]
        self.saved = (self.env_step, self.updates, self.evaluated_at, progress["finished"])
        if "env" in progress:  # of a run that began when one environment was all there could be
            singular = {"envs": "env", "episode_returns": "episode_return", "episode_lengths": "episode_length"}
            progress |= {name: [progress[old]] for name, old in singular.items()}
        self.episode_returns, self.episode_lengths = progress["episode_returns"], progress["episode_lengths"]
        self.rng.bit_generator.state = progress["sampling"]
        self.replay.restore(progress["replay"])
        if self.collects:
            self.steps = [env.restore(state) for env, state in zip(self.envs, progress["envs"], strict=True)]
        return mind
