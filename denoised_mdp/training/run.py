"""One run: the state of one seed, in one folder. `loop.py` executes the steps of one or several.

Shapes: N = environments, A = action; all other letters are those of `agent`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import numpy as np

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.agent.batch import Gathered
from denoised_mdp.analysis import visualize
from denoised_mdp.config import Config
from denoised_mdp.envs import AnyEnv, Step
from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint, episode_files
from denoised_mdp.runs.device_replay import SHARE, DeviceReplay, rows_needed
from denoised_mdp.runs.evaluation import rollout, summary, training_envs
from denoised_mdp.runs.logger import Logger
from denoised_mdp.runs.replay import Batch, Recency, Replay
from denoised_mdp.training.devices import Devices
from denoised_mdp.training.learner import WATCHED, AgentSnapshot, Keys
from denoised_mdp.training.prefill import HOLD, PREFILLS

if TYPE_CHECKING:
    from denoised_mdp.analysis.factorization.monitor import Monitor

_log = logging.getLogger(__name__)

# The independent random streams of a run. Every draw is also folded with the env step or update it belongs to, so
# that a resumed run draws what an uninterrupted one would.
INITIALISE, COLLECT, LEARN, EVALUATE = range(4)

Evaluation = Literal["returns", "video", "analysis"]


class Progress(NamedTuple):
    """The progress of a run; `progress.json` in each of its checkpoints has these numbers too."""

    env_step: int = 0
    updates: int = 0
    evaluated_at: int = -1  # the env step of the last evaluation; -1 before the first
    finished: bool = False


def defect(path: Path) -> str | None:
    """Returns what is wrong with a checkpoint of a run or with the episodes that it needs, or None. Reads them all."""
    if found := checkpoint.damage(path):
        return found
    run_dir, progress = path.parent.parent, checkpoint.load_progress(path)
    own = "envs" in progress or "env" in progress  # the replay of a run that collects is its own
    return episode_files.damage(run_dir / "replay", progress["replay"]) if own else None


class Run:
    """The state of one seed, in one folder; its last checkpoint holds all that an exact resume needs.

    The learned state of its agent is not here, as several seeds may share the same arrays: methods take or return an
    `AgentSnapshot`.
    """

    def __init__(self, config: Config, agent: Agent, eval_envs: Sequence[AnyEnv], devices: Devices, *, own_line: bool):
        """`own_line`: whether it has a progress line of its own, if the configuration wants one."""
        self.config, self.folder = config, Path(config.run_dir)
        self.envs = training_envs(config)
        self.eval_envs = eval_envs
        self.agent, self.devices = agent, devices
        self._keys = jax.random.split(jax.random.key(config.seed), 4)
        self.keys = Keys(learn=self._keys[LEARN], collect=self._keys[COLLECT])
        self.rng = np.random.default_rng(config.seed)
        self.collects = config.replay.source is None
        self.replay = self._open_replay()
        self.device_replay = self._open_device_replay() if config.replay.device else None
        self.logger = Logger(
            self.folder,
            total_env_steps=config.train.env_steps,
            tensorboard=config.logger.tensorboard,
            wandb_mode=config.logger.wandb,
            progress=own_line and config.logger.progress,
            config=config.model_dump(),
        )
        self.steps: list[Step | None] = [None] * len(self.envs)  # the current ones; None before the first reset
        self.episode_returns, self.episode_lengths = [0.0] * len(self.envs), [0] * len(self.envs)
        self.progress = Progress()
        self.saved: Progress | None = None  # the progress in the newest checkpoint
        self.warned: set[str] = set()  # each warning is given once
        self.monitor: Monitor | None = None  # made by the first analysis

    def _open_replay(self) -> Replay:
        shapes = {"observation_shape": self.envs[0].observation_shape, "action_size": self.envs[0].action_size}
        replay = self.config.replay
        if replay.source is not None:
            source = Replay.open(replay.source, include_running=replay.include_running, **shapes)
            if not source.can_sample(self.config.train.batch_length):
                raise UserError(
                    f"replay.source={replay.source} has no finished episodes of train.batch_length="
                    f"{self.config.train.batch_length} steps together"
                )
            return source
        ours = Replay(
            self.folder / "replay",
            capacity=replay.capacity,
            factors=self.envs[0].factor_specs if replay.factors else None,
            include_running=replay.include_running,
            **shapes,
        )
        return ours if self.devices.is_main_process else ours.snapshot()

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
        return DeviceReplay(self.replay.dtype, rows, self.devices.whole, share=SHARE / self.devices.seeds)

    @property
    def env_step(self) -> int:
        """Simulator frames so far."""
        return self.progress.env_step

    def advance(self, frames: int) -> None:
        """Counts this many simulator frames."""
        self.progress = self.progress._replace(env_step=self.env_step + frames)

    def finish(self) -> None:
        """Records that the end has been reached; a run without an update is not finished."""
        self.progress = self.progress._replace(finished=self.progress.updates > 0)

    def is_due(self, every: int, *, since: int) -> bool:
        """Checks whether a multiple of `every` env steps lies after `since`, up to now."""
        return self.env_step // every > since // every

    def checkpoint_due(self) -> bool:
        """Checks whether it is time to save; before the first step too, so that each run can be resumed."""
        return self.saved is None or self.is_due(self.config.checkpoint.every, since=self.saved.env_step)

    def begin_episode(self, i: int, step: Step) -> None:
        """Records the reset of environment i."""
        self.steps[i], self.episode_returns[i], self.episode_lengths[i] = step, 0.0, 0
        self.replay.add(step, stream=i)

    def add(self, i: int, action: np.ndarray, step: Step) -> None:
        """Records an action [A] in environment i, which led to `step`."""
        self.steps[i] = step
        self.replay.add(step, action, stream=i)
        self.advance(self.envs[i].action_repeat)
        self.episode_returns[i] += step.reward
        self.episode_lengths[i] += 1
        if step.is_terminal and not self.config.model.continue_head:
            task = self.config.env.task
            self._warn_once("ends", f"{task} terminates episodes; set model.continue_head=true to learn when")

    def log_episodes(self) -> None:
        """Logs the returns of the episodes that have just ended, if there are any."""
        ended = [i for i, step in enumerate(self.steps) if step is not None and step.is_last]
        if ended:
            self._warn_of_short(min(self.episode_lengths[i] for i in ended) + 1)
            metrics = {
                "train/return": float(np.mean([self.episode_returns[i] for i in ended])),
                "train/length": float(np.mean([self.episode_lengths[i] for i in ended])),
                "replay/steps": self.replay.num_steps,
                "replay/episodes": self.replay.num_episodes,
            }
            self.logger.log(self.env_step, metrics)

    def _warn_of_short(self, rows: int) -> None:
        if rows < (length := self.config.train.batch_length):
            self._warn_once(
                "short",
                f"episodes end after as little as {rows} steps, fewer than train.batch_length={length}: those that are "
                "shorter than a sequence follow each other in it",
            )

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            _log.warning("%s", message)

    def random_actions(self) -> np.ndarray:
        """Returns actions of the prefill, [N, A]."""
        stretch = HOLD * self.config.env.action_repeat * len(self.envs)
        act, shape = PREFILLS[self.config.train.prefill_policy], (len(self.envs), self.agent.action_size)
        return act(self._keys[COLLECT], self.env_step, stretch, shape)

    def updates_owed(self, in_flight: int = 0) -> int:
        """Returns the updates due but not in flight: `train.updates` per `train.every` env steps since the prefill."""
        train = self.config.train
        blocks = self.env_step // train.every - -(-train.prefill // train.every) + 1
        owed = train.updates * max(0, blocks) - self.progress.updates - in_flight
        if owed <= 0:
            return 0
        if self.replay.can_sample(train.batch_length):
            return owed
        self._warn_once("waits", f"env step {self.env_step}: updates wait: {self._missing()}")
        return 0

    def _missing(self) -> str:
        kind = "episodes" if self.config.replay.include_running else "finished episodes"
        return f"there are no {self.config.train.batch_length} steps of {kind} (train.batch_length) to sample yet"

    def check_learned(self) -> None:
        """Checks at the end that the run has learned.

        Raises:
            UserError: not a single update has been made.
        """
        if not self.progress.updates:
            raise UserError(
                f"{self.folder} has learned nothing in {self.env_step} env steps, as {self._missing()}: the same "
                "command with a larger train.env_steps goes on, or begin another run with a smaller "
                "train.batch_length or replay.include_running=true"
            )

    def sample(self, contents: Replay, updates: int) -> Batch | Gathered:
        """Draws the batches [K, T, B] of K updates from the disk, or from the copy of it on the device.

        Each of several processes reads its share of B.
        """
        length, batch = self.config.train.batch_length, self.config.train.batch_size
        recency = Recency(self.config.replay.recent_share, self.config.replay.recent_episodes)
        if self.device_replay is None:
            return contents.sample(self.rng, updates, length, batch, recency=recency, columns=self.devices.columns)
        self.device_replay.update(contents)
        return self.device_replay.sample(self.rng, updates, length, batch, recency)

    def record_updates(self, updates: int, means: Mapping[str, float], speeds: Mapping[str, float]) -> None:
        """Counts updates that have been made, and logs their mean metrics.

        Raises:
            UserError: the loss is not finite.
        """
        if not updates:
            return
        self.progress = self.progress._replace(updates=self.progress.updates + updates)
        if not np.isfinite(sum(means[name] for name in WATCHED)):
            saved = self.saved.env_step if self.saved is not None else 0
            raise UserError(
                f"the loss is not finite at env step {self.env_step} of {self.folder}; the last checkpoint is of env "
                f"step {saved}: lower the learning rates, or look at what the environment rewards"
            )
        speed = self.logger.env_steps_per_second or 0.0
        counts = {"train/updates": self.progress.updates, "speed/env_steps_per_second": speed}
        self.logger.log(self.env_step, {**means, **counts, **speeds})

    def evaluations_due(self) -> set[Evaluation]:
        """Returns the evaluations that are due now."""
        evaluate, analysis, since = self.config.evaluate, self.config.analysis, self.progress.evaluated_at
        every: dict[Evaluation, int | None] = {
            "returns": evaluate.every,
            "video": evaluate.video_every,
            "analysis": analysis.every,
        }
        due: set[Evaluation] = {name for name, n in every.items() if n is not None and self.is_due(n, since=since)}
        if since < self.env_step >= self.config.train.env_steps:
            due.add("returns")
        return due

    def evaluate(self, state: TrainState, due: set[Evaluation]) -> None:
        """Makes the due evaluations: held-out returns, a video of the model's beliefs, an analysis of its parts."""
        if "analysis" in due:
            self._analyse(state)
        if due & {"returns", "video"}:
            self._rollout(state, video="video" in due)
        self.progress = self.progress._replace(evaluated_at=self.env_step)

    def _analyse(self, state: TrainState) -> None:
        """Logs the factorization of the parts, and an alarm if one is due; not for an untrained model."""
        from denoised_mdp.analysis.factorization.monitor import (
            Monitor,  # scikit-learn: seconds that only those who ask wait for
        )

        if self.monitor is None:
            analysis, seed = self.config.analysis, self.config.evaluate.seed
            self.monitor = Monitor(self.eval_envs[: analysis.clips], repeats=analysis.repeats, seed=seed)
        metrics, alarms = self.monitor(state.world_model)
        self.logger.log(self.env_step, metrics)
        for alarm in alarms if self.progress.updates else ():
            _log.warning("env step %d: %s", self.env_step, alarm.text)

    def _rollout(self, state: TrainState, *, video: bool) -> None:
        evaluate = self.config.evaluate
        key, draw_key = jax.random.split(jax.random.fold_in(self._keys[EVALUATE], self.env_step))
        episodes = rollout(self.agent, state, self.eval_envs, key, seed=evaluate.seed, record=int(video))
        self.logger.log(self.env_step, summary(episodes))
        if video:
            rows = visualize.decompose(state.world_model, episodes[0].observation, episodes[0].action, draw_key)
            picture, video_path = visualize.write(self.folder / "videos" / f"{self.env_step:09d}", rows)
            self.logger.image(self.env_step, "evaluate/picture", picture)
            self.logger.video(self.env_step, "evaluate/video", video_path)

    def save(self, snapshot: AgentSnapshot) -> None:
        """Saves a checkpoint: the agent's arrays, and as plain data all else that the next step depends on."""
        if self.progress == self.saved:
            return
        self.saved = self.progress
        self.logger.flush()
        progress = {
            "env_step": self.progress.env_step,
            "finished": self.progress.finished,
            "evaluated_at": self.progress.evaluated_at,
            "updates": self.progress.updates,
            "episode_returns": self.episode_returns,
            "episode_lengths": self.episode_lengths,
            "sampling": self.rng.bit_generator.state,
        }
        progress["replay"] = self.replay.index()
        if self.collects:
            self.replay.flush()
            progress["envs"] = [env.state() for env in self.envs]
        checkpoint.save(self.folder, self.env_step, tuple(snapshot), progress, keep=self.config.checkpoint.keep)
        if self.collects:
            with suppress(UserError):  # the oldest checkpoint is damaged: what it needs stays
                self.replay.release(checkpoint.load_progress(checkpoint.all_of(self.folder)[0])["replay"])

    def restore(self, name: str | None) -> AgentSnapshot:
        """Restores the checkpoint of that name, or the beginning; returns the agent's part of it."""
        memory = self.agent.initial(len(self.envs))
        if name is None:
            if self.collects and self.devices.is_main_process:
                self.replay.restore(None)
            return AgentSnapshot(self.agent.create(self._keys[INITIALISE]), memory)
        path = self.folder / checkpoint.FOLDER / name
        progress = checkpoint.load_progress(path)
        snapshot = AgentSnapshot._make(checkpoint.load_state(path, (self.agent.shapes(), memory)))
        self.saved = Progress(*(progress[field] for field in Progress._fields))
        self.progress = self.saved._replace(finished=False)
        if "env" in progress:  # of a run from before several environments were possible
            singular = {"envs": "env", "episode_returns": "episode_return", "episode_lengths": "episode_length"}
            progress |= {name: [progress[old]] for name, old in singular.items()}
        self.episode_returns, self.episode_lengths = progress["episode_returns"], progress["episode_lengths"]
        self.rng.bit_generator.state = progress["sampling"]
        self.replay.restore(progress["replay"])
        if self.collects:
            self.steps = [env.restore(state) for env, state in zip(self.envs, progress["envs"], strict=True)]
        if self.devices.is_main_process:
            _log.info("%s goes on from env step %d", self.folder, self.env_step)
        return snapshot
