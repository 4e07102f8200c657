"""The training loop: collect -> learn -> evaluate -> log -> save. The only place where all sides meet."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from denoised_mdp.envs import Step, reset_all, step_all
from denoised_mdp.errors import UserError
from denoised_mdp.evaluation import evaluation_envs, rollout, summary, training_envs
from denoised_mdp.logger import Logger
from denoised_mdp.overlap import Blocks, copied
from denoised_mdp.parallel import Devices, join_processes
from denoised_mdp.prefetch import run_chunks
from denoised_mdp.replay import Batch, Replay

if TYPE_CHECKING:
    from denoised_mdp.analysis.monitor import Monitor

_log = logging.getLogger(__name__)

# The independent random streams of a run. Every draw is also folded with the env step or update it belongs to, so
# that a resumed run draws what an uninterrupted one would.
INITIALISE, COLLECT, LEARN, EVALUATE = range(4)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
END = "end"  # told to the processes that follow


def train(config: Config) -> None:
    """Starts the run of `config.run_dir`, or goes on with it, to its end or to a signal."""
    if config.distributed:
        join_processes()
    folder = Path(config.run_dir)
    path = checkpoint.latest(folder)
    progress = None if path is None else checkpoint.load_progress(path)
    if progress is not None and "imported_from" in progress:
        raise UserError(
            f"run_dir={folder} holds weights imported from {progress['imported_from']}, and no replay to go on with: "
            "they can be evaluated and looked at"
        )
    if progress is not None and progress["finished"] and progress["env_step"] >= config.train.env_steps:
        print(f"{folder} is finished: {progress['env_step']} env steps; a larger train.env_steps goes on with it")
        return
    cache_programs()
    run = Run(config)
    if run.devices.leads:
        run_dir.claim(config)  # the first thing written
    try:
        run.train() if run.devices.leads else run.follow()
    finally:
        run.close()
    if run.stop_signal is not None:
        if run.devices.leads:
            print(
                f"stopped by {run.stop_signal} at env step {run.env_step}, saved; the same command goes on", flush=True
            )
        requeue.pass_on(run.stop_signal)
        raise SystemExit(0)  # a sweep ends too


class Run:
    """One training run in one folder; its last checkpoint holds all it needs to go on exactly."""

    def __init__(self, config: Config):
        self.config, self.folder = config, Path(config.run_dir)
        self.envs = training_envs(config)
        self.eval_envs = evaluation_envs(config)
        self.devices = Devices(config.devices, config.train.batch_size)
        self.agent = Agent(config, self.envs[0].action_size)
        self.agent.train_chunk = self.devices.compiled(self.agent.train_chunk)
        self.keys = list(jax.random.split(jax.random.key(config.seed), 4))
        if config.train.staleness:
            self.keys[COLLECT] = copied(self.keys[COLLECT])
        self.keys[LEARN] = self.devices.replicate(self.keys[LEARN])
        self.rng = np.random.default_rng(config.seed)
        self.collects = config.replay.source is None
        self.replay = self._open_replay()
        self.on_device = self._open_device_replay() if config.replay.device else None
        self.logger = Logger(
            self.folder,
            total_env_steps=config.train.env_steps,
            tensorboard=config.logger.tensorboard,
            wandb_mode=config.logger.wandb,
            progress=config.logger.progress,
            config=config.model_dump(),
        )
        self.state = self.devices.replicate(self.agent.create(self.keys[INITIALISE]))
        self._hand_over()
        self.blocks = Blocks(beside=config.train.staleness > 0)
        self.memory = self.agent.initial(len(self.envs))
        self.steps: list[Step | None] = [None] * len(self.envs)  # the current ones; None before the first reset
        self.episode_returns, self.episode_lengths = [0.0] * len(self.envs), [0] * len(self.envs)
        self.env_step = self.updates = self.begun = 0  # begun: updates under way
        self.evaluated_at = -1
        self.finished = False
        self.saved = (-1, 0, -1, False)  # env step, updates, last evaluation, finished: of the newest checkpoint
        self.stop_signal: str | None = None
        self.closing = self.warned = False
        self.monitor: Monitor | None = None  # made when it is first wanted

    def train(self) -> None:
        """Runs to the end, or to a signal, and leaves a checkpoint in either case."""
        path = checkpoint.latest(self.folder)
        self.devices.tell(None if path is None else path.name)
        if path is not None:
            self._restore(path)
        elif self.collects:
            self.replay.restore(None)
        self.devices.tell()  # the others have read the checkpoint too
        with self._signals(), self.logger:
            self.logger.start(self.env_step or None)
            if path is None:
                self._save()  # early, so that a run has something to go on from
            while True:
                self._learn()
                if not self.blocks.under_way:  # else these wait, for at most `train.every` env steps
                    self._evaluate()
                    if self.stop_signal is not None:  # before another step, so that the rest of this one comes first
                        break
                    if self.env_step >= self.config.train.env_steps:
                        self.finished = True
                        break
                    if self._due(self.config.checkpoint.every, since=self.saved[0]):
                        self._save()
                    self._begin_block()
                with self.blocks.acting():
                    self._collect() if self.collects else self._pretend()
                self.logger.progress(self.env_step)
            self._save()
            self.devices.tell(END)

    def follow(self) -> None:
        """In a process that does not lead: the updates that it is told to compute its share of, to the end."""
        if (name := self.devices.tell()) is not None:
            self._restore(self.folder / checkpoint.FOLDER / name)
        self.devices.tell()
        with self._signals():
            while (block := self.devices.tell()) != END:
                self.replay.restore(block["replay"])
                self.state, _, _ = self._block(self.replay, block["updates"])

    def close(self) -> None:
        """Frees the simulators and files: a sweep goes on in this process."""
        self.closing = True
        self.blocks.close()
        for env in (*self.envs, *self.eval_envs):
            env.close()
        self.replay.close()

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

    def _sampler(self, contents: Replay) -> Callable[..., Batch | Gathered]:
        """What draws batches: from the copy on the device, or from the disk, where each process reads its share."""
        if self.on_device is None:
            return partial(contents.sample, columns=self.devices.columns)
        self.on_device.update(contents)
        return self.on_device.sample

    def _due(self, every: int, *, since: int) -> bool:
        """Whether a multiple of `every` env steps lies after `since`, up to now."""
        return self.env_step // every > since // every

    def _pretend(self) -> None:
        """Without collecting, env steps only pace the updates, so that schedules and plots stay comparable."""
        self.env_step += self.config.train.every

    def _collect(self) -> None:
        """One agent step in every environment; a reset first, where an episode begins."""
        over = [i for i, step in enumerate(self.steps) if step is None or step.is_last]
        for i, step in reset_all(self.envs, over).items():
            self.steps[i], self.episode_returns[i], self.episode_lengths[i] = step, 0.0, 0
            self.replay.add(step, stream=i)
        actions = self._actions([step for step in self.steps if step is not None])
        for i, step in step_all(self.envs, dict(enumerate(actions))).items():
            self.steps[i] = step
            self.replay.add(step, actions[i], stream=i)
            self.env_step += self.envs[i].action_repeat
            self.episode_returns[i] += step.reward
            self.episode_lengths[i] += 1
            if step.is_terminal and not self.config.model.continue_head and not self.warned:
                self.warned = True
                _log.warning("%s ends episodes for good: model.continue_head=true would learn it", self.config.env.task)
        ended = [i for i, step in enumerate(self.steps) if step is not None and step.is_last]
        if ended:
            metrics = {
                "train/return": float(np.mean([self.episode_returns[i] for i in ended])),
                "train/length": float(np.mean([self.episode_lengths[i] for i in ended])),
                "replay/steps": self.replay.num_steps,
                "replay/episodes": self.replay.num_episodes,
            }
            self.logger.log(self.env_step, metrics)

    def _actions(self, steps: Sequence[Step]) -> np.ndarray:
        """What to do next, [N, A]: uniform during the prefill, then what the policy explores."""
        key = jax.random.fold_in(self.keys[COLLECT], self.env_step)
        if self.env_step < self.config.train.prefill:
            return np.asarray(jax.random.uniform(key, (len(steps), self.agent.action_size), minval=-1, maxval=1))
        self.memory = self.agent.act(
            *self.acting,
            self.memory,
            np.stack([step.observation for step in steps]),
            np.array([step.is_first for step in steps]),
            key,
            explore=True,
        )
        return np.asarray(self.memory.action)

    def _learn(self) -> None:
        """Where updates are due: waits for those that are under way, and, without staleness, does the next at once."""
        at_the_end = self.env_step >= self.config.train.env_steps
        if self._updates_due() or at_the_end:
            self._end_block()
            if at_the_end or not self.config.train.staleness:
                self._begin_block()
                self._end_block()

    def _updates_due(self) -> int:
        """How many are missing, and not under way, to `train.updates` for each `train.every` steps since prefill."""
        train = self.config.train
        blocks = self.env_step // train.every - -(-train.prefill // train.every) + 1
        return max(0, train.updates * blocks - self.updates - self.begun)

    def _hand_over(self) -> None:
        """What has been learned to the actor: a copy where it goes on during updates, which write over the state."""
        learned = self.devices.local((self.state.world_model, self.state.policy.actor))
        self.acting = copied(learned) if self.config.train.staleness else learned

    def _begin_block(self) -> None:
        """Begins the updates that are due; what has been collected by now is what they sample from."""
        due, contents = self._updates_due(), self.replay
        if not due or not contents.can_sample(self.config.train.batch_length):
            return
        if self.config.train.staleness:
            contents = contents.snapshot()
            self._hand_over()
        self.begun = due
        if self.devices.processes > 1:
            self.replay.flush()
            self.devices.tell({"replay": contents.index(), "updates": due})
        self.blocks.begin(partial(self._block, contents, due))

    def _block(self, contents: Replay, updates: int) -> tuple[TrainState, list[dict[str, jax.Array]], int]:
        """The state after so many updates, metrics of each chunk, and the updates in a chunk.

        Chunks are equal and their batches fit `replay.memory_mb`; a chunk of another length would compile anew.
        """
        train, sample = self.config.train, self._sampler(contents)
        batch_bytes = train.batch_size * train.batch_length * contents.dtype.itemsize
        fits = max(1, self.config.replay.memory_mb * 2**20 // (2 * batch_bytes))
        chunk = max(n for n in range(1, min(fits, train.updates) + 1) if train.updates % n == 0)
        at_once = not train.staleness and self.devices.processes == 1  # else a stop waits for the end of the block
        state, metrics = run_chunks(
            self.state,
            lambda: self.devices.divide(sample(self.rng, chunk, train.batch_length, train.batch_size)),
            lambda state, batches: self.agent.train_chunk(state, batches, self.keys[LEARN]),
            chunks=-(-updates // chunk),
            stopped=lambda: self.closing or (self.stop_signal is not None and at_once),
        )
        return state, metrics, chunk

    def _end_block(self) -> None:
        """Waits for the updates that are under way, takes over what they have learned and logs it."""
        if not self.blocks.under_way:
            return
        self.state, metrics, chunk = self.blocks.end()
        self.updates, self.begun = self.updates + chunk * len(metrics), 0
        if not self.config.train.staleness:
            self._hand_over()
        if not metrics:
            return
        means = {name: float(np.mean([chunk[name] for chunk in metrics])) for name in metrics[0]}
        if not np.isfinite(means["model/loss"] + means["policy/actor_loss"] + means["policy/critic_loss"]):
            raise UserError(
                f"the loss is not finite at env step {self.env_step}; the last checkpoint is of env step "
                f"{self.saved[0]}: lower the learning rates, or look at what the environment rewards"
            )
        means["train/updates"] = self.updates
        means["speed/env_steps_per_second"] = self.logger.env_steps_per_second or 0.0
        self.logger.log(self.env_step, means | self.blocks.speeds(chunk * len(metrics)))

    def _evaluate(self) -> None:
        """The held-out returns, and now and then a picture of what the model believes, and what its parts know."""
        evaluate = self.config.evaluate
        at_the_end = self.evaluated_at < self.env_step >= self.config.train.env_steps
        numbers = self._due(evaluate.every, since=self.evaluated_at) or at_the_end
        film = self._due(evaluate.video_every, since=self.evaluated_at)
        probe = (every := self.config.analysis.every) is not None and self._due(every, since=self.evaluated_at)
        if self.stop_signal is not None or not (numbers or film or probe):
            return
        if probe:
            self._analyse()
        if numbers or film:
            self._rollout(film)
        self.evaluated_at = self.env_step

    def _analyse(self) -> None:
        """How the parts share the truth, and the alarm if one is due; an untrained model has no part to speak of."""
        from denoised_mdp.analysis.monitor import Monitor  # scikit-learn: seconds that only those who ask wait for

        if self.monitor is None:
            analysis, seed = self.config.analysis, self.config.evaluate.seed
            self.monitor = Monitor(self.eval_envs[: analysis.clips], repeats=analysis.repeats, seed=seed)
        metrics, alarms = self.monitor(self.devices.local(self.state.world_model))
        self.logger.log(self.env_step, metrics)
        for alarm in alarms if self.updates else ():
            _log.warning("env step %d: %s", self.env_step, alarm.text)

    def _rollout(self, film: bool) -> None:
        evaluate = self.config.evaluate
        key, draw_key = jax.random.split(jax.random.fold_in(self.keys[EVALUATE], self.env_step))
        state = self.devices.local(self.state)
        episodes = rollout(self.agent, state, self.eval_envs, key, seed=evaluate.seed, record=int(film))
        self.logger.log(self.env_step, summary(episodes))
        if film:
            rows = visualize.decompose(state.world_model, episodes[0].observation, episodes[0].action, draw_key)
            picture, video = visualize.write(self.folder / "videos" / f"{self.env_step:09d}", rows)
            self.logger.image(self.env_step, "evaluate/picture", picture)
            self.logger.video(self.env_step, "evaluate/video", video)

    def _save(self) -> None:
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
        checkpoint.save(
            self.folder, self.env_step, (self.state, self.memory), progress, keep=self.config.checkpoint.keep
        )
        if self.collects:
            self.replay.release(checkpoint.load_progress(checkpoint.all_of(self.folder)[0])["replay"])

    def _restore(self, path: Path) -> None:
        progress = checkpoint.load_progress(path)
        state, self.memory = checkpoint.load_state(path, (self.state, self.memory))
        self.state = self.devices.replicate(state)
        self._hand_over()
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
