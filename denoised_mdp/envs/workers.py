"""Environments in processes of their own, with the interface of `Env`, and how many take a step at the same time.

A worker process is spawned and imports no jax, so that it shares nothing with jax or OpenGL here. Its pictures come
through shared memory, all else through a pipe. When the pipe ends the worker does: because its environments were
closed, or because this process is gone, however that came about.
"""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from denoised_mdp.envs.build import Settings, check, make, with_chosen_backend
from denoised_mdp.envs.env import Env, Step
from denoised_mdp.envs.video import Split
from denoised_mdp.envs.world import FactorKind
from denoised_mdp.errors import UserError, one_line

# Signals that a terminal or a scheduler sends to all processes of a job: what follows from them is decided here.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 5.0  # seconds that a worker has to end by itself
_spawn = multiprocessing.get_context("spawn")


class WorkerEnv:
    """An `Env` in a worker process; its methods and attributes are those of `Env`.

    All of them raise UserError where the worker has failed: with its traceback as a note, or its exit code.
    """

    def __init__(self, worker: _Worker, index: int, about: Mapping[str, Any]):
        self._worker, self._index = worker, index
        self.action_size: int = about["action_size"]
        self.observation_shape: tuple[int, int, int] = about["observation_shape"]
        self.action_repeat: int = about["action_repeat"]
        self.episode_frames: int = about["episode_frames"]
        self.factor_kinds: dict[str, FactorKind] = about["factor_kinds"]
        self.factor_specs: dict[str, tuple[np.dtype, tuple[int, ...]]] = about["factor_specs"]
        self.factor_periods: dict[str, ArrayLike] = about["factor_periods"]

    def begin(self, method: str, *arguments: Any, **named: Any) -> Callable[[], Any]:
        """Has the worker call a method, and returns what waits for its result. Wait in the order of beginning."""
        return self._worker.begin(self._index, method, arguments, named)

    def seed(self, seed: int, *, noise: int | None = None) -> None:
        self.begin("seed", seed, noise=noise)()

    def reset(self) -> Step:
        return self.begin("reset")()

    def step(self, action: ArrayLike) -> Step:
        return self.begin("step", np.asarray(action))()

    def robot_mask(self) -> NDArray[np.bool_] | None:
        return self.begin("robot_mask")()

    def state(self) -> dict[str, Any]:
        return self.begin("state")()

    def restore(self, state: Mapping[str, Any]) -> Step | None:
        return self.begin("restore", state)()

    def close(self) -> None:
        """Ends the worker, and with it the other environments that it holds."""
        self._worker.close()


AnyEnv = Env | WorkerEnv


def make_all(
    *, env: Settings, render: Settings, noise: Settings, seeds: Sequence[int], split: Split, workers: int
) -> list[AnyEnv]:
    """An environment for each seed, as `make` makes it, here or dealt out to so many worker processes.

    Args:
        workers: 0 for none; never more than one for each environment.

    Raises:
        UserError: what `make` raises, or a worker died.
    """
    if not workers:
        return [make(env=env, render=render, noise=noise, seed=seed, split=split) for seed in seeds]
    check(env=env, render=render, noise=noise)
    settings = {"env": env, "render": with_chosen_backend(env, render), "noise": noise, "split": split}
    crews = [seeds[first::workers] for first in range(min(workers, len(seeds)))]
    started: list[_Worker] = []
    try:
        for crew in crews:
            started.append(_Worker(settings, crew))
        held = [worker.envs() for worker in started]
    except BaseException:  # Ctrl-C too: none is left behind
        for worker in started:
            worker.close()
        raise
    return [held[i % len(crews)][i // len(crews)] for i in range(len(seeds))]


def reset_all(envs: Sequence[AnyEnv], which: Sequence[int]) -> dict[int, Step]:
    """Resets the environments of these numbers, those of different workers at the same time.

    Raises:
        UserError: one has failed; all are closed then.
    """
    return _call_all(envs, {i: ("reset",) for i in which})


def step_all(envs: Sequence[AnyEnv], actions: Mapping[int, ArrayLike]) -> dict[int, Step]:
    """A step in each environment that has an action [A] by its number, those of different workers at the same time.

    Raises:
        UserError: one has failed; all are closed then.
    """
    return _call_all(envs, {i: ("step", action) for i, action in actions.items()})


def _call_all(envs: Sequence[AnyEnv], calls: Mapping[int, tuple[Any, ...]]) -> dict[int, Step]:
    waiting = {i: _begin(envs[i], *call) for i, call in calls.items()}
    try:
        return {i: wait() for i, wait in waiting.items()}
    except UserError:  # answers that nobody waited for would be taken for those of later questions
        for env in envs:
            env.close()
        raise


def _begin(env: AnyEnv, method: str, *arguments: Any) -> Callable[[], Any]:
    """Starts a method where there is a worker for it; else it is done when it is waited for."""
    if isinstance(env, WorkerEnv):
        return env.begin(method, *arguments)
    return functools.partial(getattr(env, method), *arguments)


class _Failure(NamedTuple):
    """What a worker answers before it ends."""

    message: str
    traceback: str | None  # None: the message is that of a UserError, and says it all


class _Worker:
    """A process with environments of some seeds, and the near end of its pipe."""

    def __init__(self, settings: Mapping[str, Any], seeds: Sequence[int]):
        self._name = f"{settings['split']} environment of seed {' and '.join(map(str, seeds))}"
        shape = (len(seeds), settings["env"]["image_size"], settings["env"]["image_size"], 3)
        memory = _spawn.RawArray(ctypes.c_uint8, int(np.prod(shape)))
        self._pictures = np.frombuffer(memoryview(memory), np.uint8).reshape(shape)
        self._pipe, far_end = _spawn.Pipe()
        self._process = _spawn.Process(target=_work, args=(settings, list(seeds), memory, shape, far_end))
        _start(self._process)
        far_end.close()  # else it would stay open when the worker dies
        # Also when Python ends, before it waits for the process.
        self.close = util.Finalize(self, _end, args=(self._pipe, self._process), exitpriority=0)

    def envs(self) -> list[WorkerEnv]:
        """The environments, once they are made."""
        return [WorkerEnv(self, i, about) for i, about in enumerate(self._wait())]

    def begin(self, index: int, method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Callable[[], Any]:
        with suppress(OSError):  # it has died: whoever waits is told why
            self._pipe.send((index, method, arguments, named))
        return functools.partial(self._wait, index)

    def _wait(self, index: int = 0) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise UserError(f"{self._name}: its worker process {self._ending()}") from None
        if isinstance(answer, _Failure):
            error = UserError(answer.message)
            if answer.traceback is not None:
                error.add_note(f"In the worker process:\n{answer.traceback}")
            raise error
        return answer._replace(observation=self._pictures[index].copy()) if isinstance(answer, Step) else answer

    def _ending(self) -> str:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        if code is None:
            return "has closed its pipe"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _start(process: SpawnProcess) -> None:
    """Starts it deaf to the signals that it would die of before it can look after itself."""
    resource_tracker.ensure_running()  # else it is started below, and unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pipe: Connection, process: SpawnProcess) -> None:
    pipe.close()
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()


# In the worker process


def _work(settings: Mapping[str, Any], seeds: list[int], memory: Any, shape: tuple[int, ...], pipe: Connection) -> None:
    for number in _SIGNALS:  # a handler that does nothing, as ignoring would go on in what environments may start
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    pictures = np.frombuffer(memory, np.uint8).reshape(shape)
    with suppress(ConnectionError):  # the other process is gone
        _serve(settings, seeds, pictures, pipe)


def _serve(settings: Mapping[str, Any], seeds: list[int], pictures: NDArray[np.uint8], pipe: Connection) -> None:
    """Answers until the pipe ends, or an environment fails."""
    seed, envs = seeds[0], []
    try:
        for seed in seeds:
            envs.append(make(**settings, seed=seed))
        answer: Any = [{name: value for name, value in vars(env).items() if name[0] != "_"} for env in envs]
        while True:
            pipe.send(answer)
            if (question := _next(pipe)) is None:
                break
            index, method, arguments, named = question
            seed = seeds[index]
            answer = getattr(envs[index], method)(*arguments, **named)
            if isinstance(answer, Step):
                pictures[index] = answer.observation
                answer = answer._replace(observation=None)
    except UserError as error:
        pipe.send(_Failure(str(error), None))
    except Exception as error:  # whatever it is, it is told where somebody reads it
        where = f"{settings['split']} environment of seed {seed}"
        pipe.send(_Failure(f"{where}: {type(error).__name__}: {one_line(error)}", traceback.format_exc()))
    for env in envs:
        env.close()


def _next(pipe: Connection) -> Any:
    """The next question, None when there will be none any more."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
