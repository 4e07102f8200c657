"""The tasks of the package `robodesk`, and the paper's tv_green_hue: rewards and success conditions.

In the package, the array of a block's position at the reset is a view of its current position, so that no block ever
seems to have moved, risen or fallen; here it is a copy. All else are the package's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Reward = Literal["dense", "sparse", "success"]
BLOCKS = ("flat_block", "upright_block", "ball")

_PRESSED = -0.00453  # metres, position of a light's joint, which ends at -0.005
_REACH = 1.0  # metres; beyond this distance nearness is 0
_STILL = 0.01  # metres; a block that moved less counts as still
_FAR = 5.0  # metres of movement at which the reward for staying is 0
_LIFTED = {"upright_block": 0.86, "ball": 0.81, "flat_block": 0.78}  # heights beyond which blocks count as lifted, m
_STACKED = np.array([0, 0, 0.0377804])  # from the flat block's centre to the upright one's, metres
_SHELF = np.array([0.4, 1.1])  # metres


class Desk:
    """The quantities of the simulator that the rewards use."""

    def __init__(self, physics: Any):
        self._data = physics.named.data
        self._start = {block: self.place(block) for block in BLOCKS}
        self.television_green = 0.0  # the mean green of its picture, from 0 to 1

    def restart(self) -> None:
        """Notes the current positions of the blocks as their starting positions."""
        self._start = {block: self.place(block) for block in BLOCKS}

    def place(self, body: str) -> NDArray[np.float64]:
        """Returns the position [3] of a body."""
        return self._data.xpos[body].copy()

    def start(self, block: str) -> NDArray[np.float64]:
        """Returns the position [3] of a block at the reset."""
        return self._start[block]

    def joint(self, name: str) -> float:
        """Returns the position of a joint with one degree of freedom."""
        return float(self._data.qpos[name].item())

    def near(self, point: NDArray[np.float64]) -> float:
        """Returns the nearness of the hand to `point` [3]: 1 at the point, 0 at a metre and beyond."""
        return _unit(1 - _norm(self._data.site_xpos["end_effector"] - point) / _REACH)

    def moved(self, block: str) -> float:
        """Returns the distance of a block from its starting position, metres."""
        return _norm(self.place(block) - self._start[block])

    def pressed(self, button: str) -> bool:
        return self.joint(f"{button}_light") < _PRESSED

    @property
    def drawer_handle(self) -> NDArray[np.float64]:
        return self._data.geom_xpos["drawer_handle"]

    @property
    def slide_handle(self) -> NDArray[np.float64]:
        return self._data.site_xpos["slide_handle"]


class Task(NamedTuple):
    """A task's reward and its success; both are clipped to [0, 1] after the call."""

    dense: Callable[[Desk], float]
    success: Callable[[Desk], float]  # 1 when it is done; for tv_green_hue, how green the television is
    factors: tuple[str, ...]  # factors that the reward depends on, besides the robot


def _others(block: str) -> list[str]:
    return [other for other in BLOCKS if other != block]


def _stayed(desk: Desk, block: str) -> float:
    return 1 - desk.moved(block) / _FAR


def _norm(vector: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(vector))


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _open_slide() -> Task:
    def dense(desk: Desk) -> float:
        near = desk.near(desk.slide_handle - (0.15, 0, 0))
        still = [desk.moved(block) < _STILL for block in BLOCKS]
        open_and_near = 0.75 * desk.joint("slide_joint") / 0.6 + 0.25 * near
        return 0.9 * open_and_near + 0.1 * float(np.dot((0.33, 0.33, 0.34), still))

    return Task(dense, lambda desk: desk.joint("slide_joint") > 0.55, ("slide", *BLOCKS))


def _open_drawer() -> Task:
    return Task(
        lambda desk: 0.75 * abs(desk.joint("drawer_joint")) / 0.3 + 0.25 * desk.near(desk.drawer_handle),
        lambda desk: desk.joint("drawer_joint") < -0.2,
        ("drawer",),
    )


def _push(button: str) -> Task:
    return Task(
        lambda desk: 0.25 * desk.pressed(button) + 0.75 * desk.near(desk.place(f"{button}_button")),
        lambda desk: desk.pressed(button),
        (f"{button}_button",),
    )


def _stack() -> Task:
    def off(desk: Desk) -> float:
        return _norm(_STACKED - (desk.place("upright_block") - desk.place("flat_block")))

    return Task(
        lambda desk: desk.near(desk.place("upright_block")) - off(desk),
        lambda desk: off(desk) < 0.04,
        ("upright_block", "flat_block"),
    )


def _off_table(block: str) -> Task:
    others = _others(block)

    def dense(desk: Desk) -> float:
        fallen = 1 - desk.place(block)[2] / desk.start(block)[2]
        pushed = _unit(0.8 * fallen + 0.1 * sum(_stayed(desk, other) for other in others))
        return 0.75 * pushed + 0.25 * desk.near(desk.place(block))

    def success(desk: Desk) -> bool:
        return desk.place(block)[2] < 0.6 and all(desk.moved(other) < _STILL for other in others)

    return Task(dense, success, BLOCKS)


def _in_bin(block: str) -> Task:
    def success(desk: Desk) -> bool:
        x, y, z = desk.place(block)
        return 0.28 < x < 0.52 and 0.38 < y < 0.62 and 0 < z < 0.4

    return Task(lambda desk: 0.5 * desk.near(desk.place(block)) + 0.5 * success(desk), success, (block,))


def _in_shelf(block: str) -> Task:
    def success(desk: Desk) -> bool:
        x, y, _ = desk.place(block)
        return x > 0.2 and y > 1.0

    def dense(desk: Desk) -> float:
        place = desk.place(block)
        near_shelf = 1 - _norm(_SHELF - place[:2])
        in_shelf = 0.33 * desk.near(place) + 0.33 * near_shelf + 0.34 * success(desk)
        return 0.5 * in_shelf + 0.25 * sum(_stayed(desk, other) for other in _others(block))

    return Task(dense, success, BLOCKS)


def _lift(block: str) -> Task:
    def dense(desk: Desk) -> float:
        place = desk.place(block)
        return 0.85 * _unit(10 * (place[2] - desk.start(block)[2])) + 0.15 * desk.near(place)

    return Task(dense, lambda desk: desk.place(block)[2] > _LIFTED[block], (block,))


def _tv_green_hue() -> Task:
    def dense(desk: Desk) -> float:
        near = desk.near(desk.place("green_button"))
        return 0.5 * desk.television_green + 0.25 * near + 0.25 * desk.pressed("green")

    return Task(dense, lambda desk: desk.television_green, ("green_button", "television_green", "television_hue"))


TELEVISION = "tv_green_hue"
TASKS: dict[str, Task] = {
    "open_slide": _open_slide(),
    "open_drawer": _open_drawer(),
    "push_green": _push("green"),
    "push_blue": _push("blue"),
    "push_red": _push("red"),
    "stack": _stack(),
    **{f"{block}_off_table": _off_table(block) for block in BLOCKS},
    **{f"{block}_in_bin": _in_bin(block) for block in BLOCKS},
    **{f"{block}_in_shelf": _in_shelf(block) for block in BLOCKS},
    **{f"lift_{block}": _lift(block) for block in BLOCKS},
    TELEVISION: _tv_green_hue(),
}


class Earnings:
    """The rewards of a task, control step by control step.

    dense: the dense reward. sparse: 1 for every step in which the task is done. success: 1 when it is done for the
    first time; for tv_green_hue, where success is gradual, the increase over the maximum so far.
    """

    def __init__(self, task: str, reward: Reward):
        self._task, self._reward = TASKS[task], reward
        self._most = 0.0

    def restart(self) -> None:
        """Begins an episode."""
        self._most = 0.0

    def step(self, desk: Desk) -> float:
        """Returns the reward of the current state, from 0 to 1."""
        if self._reward == "dense":
            return _unit(self._task.dense(desk))
        done = _unit(float(self._task.success(desk)))
        if self._reward == "sparse":
            return done
        gained = max(done - self._most, 0.0)
        self._most += gained
        return gained
