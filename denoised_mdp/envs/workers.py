"""Environments in worker processes, with the interface of `Env`, and steps in many of them at the same time.

A worker process is spawned and imports no jax, so that it shares nothing with jax or OpenGL in this process. Pictures
come through shared memory, all else through a pipe. The worker ends when the pipe closes: because its environments
were closed, or because this process ended for whatever reason.
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

# Signals that a terminal or a scheduler sends to all processes of a job; only this process reacts to them.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 5.0  # seconds that a worker has to exit by itself
_spawn = multiprocessing.get_context("spawn")


class WorkerEnv:
    """An `Env` in a worker process; its methods and attributes are those of `Env`.

    All of them raise UserError if the worker has failed, with its traceback as a note or with its exit code.
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
        """Sends a method call to the worker, and returns a function that waits for its result.

        Call these functions in the order of the `begin` calls.
        """
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
        """Ends the worker, and so closes its other environments too."""
        self._worker.close()


AnyEnv = Env | WorkerEnv


def make_all(
    *, env: Settings, render: Settings, noise: Settings, seeds: Sequence[int], split: Split, workers: int
) -> list[AnyEnv]:
    """Makes an environment for each seed, as `make` does, in this process or distributed over worker processes.

    Args:
        workers: number of worker processes; 0 for none, at most one for each environment is started.

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
    except BaseException:  # Ctrl-C too: no worker is left behind
        for worker in started:
            worker.close()
        raise
    return [held[i % len(crews)][i // len(crews)] for i in range(len(seeds))]


def reset_all(envs: Sequence[AnyEnv], which: Sequence[int]) -> dict[int, Step]:
    """Resets the environments with these indices; different workers do it at the same time.

    Raises:
        UserError: one has failed; all are closed then.
    """
    return _call_all(envs, {i: ("reset",) for i in which})


def step_all(envs: Sequence[AnyEnv], actions: Mapping[int, ArrayLike]) -> dict[int, Step]:
    """Takes a step in each environment whose index has an action [A]; different workers do it at the same time.

    Raises:
        UserError: one has failed; all are closed then.
    """
    return _call_all(envs, {i: ("step", action) for i, action in actions.items()})


def _call_all(envs: Sequence[AnyEnv], calls: Mapping[int, tuple[Any, ...]]) -> dict[int, Step]:
    waiting = {i: _begin(envs[i], *call) for i, call in calls.items()}
    try:
        return {i: wait() for i, wait in waiting.items()}
    except UserError:  # unread answers would be mistaken for the answers to later calls
        for env in envs:
            env.close()
        raise


def _begin(env: AnyEnv, method: str, *arguments: Any) -> Callable[[], Any]:
    """Starts a method in the worker; without a worker, the returned function runs it."""
    if isinstance(env, WorkerEnv):
        return env.begin(method, *arguments)
    return functools.partial(getattr(env, method), *arguments)


class _Failure(NamedTuple):
    """The last answer of a worker that failed."""

    message: str
    traceback: str | None  # None: the message comes from a UserError, and suffices


class _Worker:
    """A process with the environments of some seeds, and this end of its pipe."""

    def __init__(self, settings: Mapping[str, Any], seeds: Sequence[int]):
        self._name = f"{settings['split']} environment of seed {' and '.join(map(str, seeds))}"
        shape = (len(seeds), settings["env"]["image_size"], settings["env"]["image_size"], 3)
        memory = _spawn.RawArray(ctypes.c_uint8, int(np.prod(shape)))
        self._pictures = np.frombuffer(memoryview(memory), np.uint8).reshape(shape)
        self._pipe, far_end = _spawn.Pipe()
        self._process = _spawn.Process(target=_work, args=(settings, list(seeds), memory, shape, far_end))
        _start(self._process)
        far_end.close()  # else the pipe would stay open when the worker dies
        # It also runs when Python exits, before it waits for the process.
        self.close = util.Finalize(self, _end, args=(self._pipe, self._process), exitpriority=0)

    def envs(self) -> list[WorkerEnv]:
        """Waits until the environments are made, and returns them."""
        return [WorkerEnv(self, i, about) for i, about in enumerate(self._wait())]

    def begin(self, index: int, method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Callable[[], Any]:
        with suppress(OSError):  # the worker has died: `_wait` reports why
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
    """Starts the process with signals blocked that would kill it before it installs its handlers."""
    resource_tracker.ensure_running()  # else the start below would start it too, which unblocks SIGINT
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
    for number in _SIGNALS:  # a handler that does nothing: an ignored signal would stay ignored in child processes
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    pictures = np.frombuffer(memory, np.uint8).reshape(shape)
    with suppress(ConnectionError):  # the other process is gone
        _serve(settings, seeds, pictures, pipe)


def _serve(settings: Mapping[str, Any], seeds: list[int], pictures: NDArray[np.uint8], pipe: Connection) -> None:
    """Answers calls until the pipe closes or an environment fails."""
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
    except Exception as error:  # any error is reported to the process that reads the answers
        where = f"{settings['split']} environment of seed {seed}"
        pipe.send(_Failure(f"{where}: {type(error).__name__}: {one_line(error)}", traceback.format_exc()))
    for env in envs:
        env.close()


def _next(pipe: Connection) -> Any:
    """Returns the next call, or None when the pipe has closed."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
