"""One run: what belongs to one seed, in one folder. `loop.py` goes through the steps of one or several.

Shapes: N = environments, A = action; all other letters are those of `agent`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.agent.batch import Gathered
from denoised_mdp.analysis import visualize
from denoised_mdp.config import Config
from denoised_mdp.envs import AnyEnv, Step
from denoised_mdp.errors import UserError
from denoised_mdp.runs import checkpoint
from denoised_mdp.runs.device_replay import SHARE, DeviceReplay, rows_needed
from denoised_mdp.runs.evaluation import rollout, summary, training_envs
from denoised_mdp.runs.logger import Logger
from denoised_mdp.runs.replay import Batch, Replay
from denoised_mdp.training.devices import Devices
from denoised_mdp.training.prefill import HOLD, PREFILLS
from denoised_mdp.training.seeds import Metrics, Mind

if TYPE_CHECKING:
    from denoised_mdp.analysis.factorization.monitor import Monitor

_log = logging.getLogger(__name__)

# The independent random streams of a run. Every draw is also folded with the env step or update it belongs to, so
# that a resumed run draws what an uninterrupted one would.
INITIALISE, COLLECT, LEARN, EVALUATE = range(4)


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
        self.told: set[str] = set()  # which warnings have been given: each is, once
        self.monitor: Monitor | None = None  # made when it is first wanted

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
        return DeviceReplay(self.replay.dtype, rows, self.devices.whole, share=SHARE / self.devices.seeds)

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
        if step.is_terminal and not self.config.model.continue_head:
            task = self.config.env.task
            self._warn_once("ends", f"{task} ends episodes for good: model.continue_head=true would learn it")

    def log_episodes(self) -> None:
        """What the episodes earned that have just ended, if there are any."""
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
        if what not in self.told:
            self.told.add(what)
            _log.warning("%s", message)

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
        """At the end.

        Raises:
            UserError: not a single update has been made.
        """
        if not self.updates:
            raise UserError(
                f"{self.folder} has learned nothing in {self.env_step} env steps, as {self._missing()}: the same "
                "command with a larger train.env_steps goes on, or begin another run with a smaller "
                "train.batch_length or replay.include_running=true"
            )

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
        from denoised_mdp.analysis.factorization.monitor import (
            Monitor,  # scikit-learn: seconds that only those who ask wait for
        )

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
        memory = self.agent.initial(len(self.envs))
        if name is None:
            if self.collects and self.devices.leads:
                self.replay.restore(None)
            return Mind(self.agent.create(self.keys[INITIALISE]), memory)
        path = self.folder / checkpoint.FOLDER / name
        progress = checkpoint.load_progress(path)
        mind = Mind._make(checkpoint.load_state(path, (self.agent.shapes(), memory)))
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
        if self.devices.leads:
            _log.info("%s goes on from env step %d", self.folder, self.env_step)
        return mind
