"""One line with the progress of a run: redrawn in place on a terminal, printed every 30 seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.text import Text

WINDOW = (
    120.0  # seconds over which speed is measured: several blocks of updates; short enough to forget the prefill soon
)
PLAIN_EVERY = 30.0  # seconds between lines where there is no terminal
GAP = "  "
BAR = 30  # characters at most

# The metrics in the line, and their labels. On a narrow terminal the last ones are left out first.
SHOWN = {
    "evaluate/return_mean": "return",
    "model/loss": "loss",
    "policy/actor_loss": "actor",
    "policy/critic_loss": "critic",
}


class Speed:
    """Env steps per second over the last two minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, env_step: int) -> None:
        """Records the present env step."""
        now = self._clock()
        if len(self._seen) < 2 or now - self._seen[-2][0] >= 1:  # at most two notes a second
            self._seen.append((now, env_step))
        else:
            self._seen[-1] = (now, env_step)
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW:
            self._seen.popleft()

    @property
    def env_steps_per_second(self) -> float | None:
        """The speed; None before the first progress."""
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if last > first and end > start else None


class ProgressLine:
    """Call `update` as often as you like, and `close` in any case, so that the terminal shows its cursor again.

    seeds: the number of runs in lockstep; `update` then takes the means of their metrics.
    """

    def __init__(self, total: int, speed: Speed, console: Console | None = None, *, seeds: int = 1):
        self._total, self._speed = total, speed
        self._seeds = f"{seeds} seeds, " if seeds > 1 else ""
        self._env_step = 0
        self._metrics: dict[str, float] = {}
        # Only a real terminal redraws the line; the log of a batch job contains plain lines in any environment.
        self._console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._printed_at: float | None = None
        self._live = (
            Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
            if self._console.is_terminal and not self._console.is_dumb_terminal
            else None
        )
        if self._live is not None:
            self._live.start()

    def update(self, env_step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Sets the newest env step, and its metrics if there are any."""
        self._env_step = env_step
        self._metrics |= metrics or {}
        if self._live is None and (self._printed_at is None or time.monotonic() - self._printed_at >= PLAIN_EVERY):
            self._print()

    def close(self) -> None:
        """Ends the line; its last state stays visible. A second call does nothing."""
        if self._live is not None:
            with suppress(OSError):  # the terminal is gone
                self._live.stop()
        elif self._printed_at is not None:
            self._print()
        self._printed_at = None

    def line(self, width: int) -> str:
        """Returns a line of at most `width` characters; less important parts are left out if it is too long."""
        share = min(1.0, self._env_step / self._total)
        speed = self._speed.env_steps_per_second
        metrics = [f"{label} {_short(self._metrics[name])}" for name, label in SHOWN.items() if name in self._metrics]
        steps = f"{speed:.{1 if speed < 10 else 0}f} steps/s" if speed else ""
        updates = self._metrics.get("speed/updates_per_second")
        updates_text = f"{updates:.1f} updates/s" if updates else ""
        # Before the first updates the speed is that of compiling and of random actions, and predicts no end.
        seconds = round((self._total - self._env_step) / speed) if speed and updates else None
        left = "" if seconds is None else f"{timedelta(seconds=seconds)} left"
        pieces = [f"{self._seeds}{share:4.0%} {self._env_step:,}/{self._total:,}", *metrics, steps, updates_text, left]
        # By importance: progress, time left, return, loss, speed, the other metrics.
        importance = [pieces[0], left, *metrics[:2], steps, updates_text, *metrics[2:]]
        kept: list[str] = []
        for piece in filter(None, importance):
            if len(GAP.join([*kept, piece])) <= width:
                kept.append(piece)
        text = GAP.join(piece for piece in pieces if piece in kept)
        room = min(BAR, width - len(text) - len(GAP) - 2)
        if room >= 10:
            text = f"[{'#' * round(share * room):.<{room}}]{GAP}{text}"
        return text[:width]

    def _render(self) -> Text:
        return Text(self.line(self._console.width - 1), no_wrap=True, overflow="crop")

    def _print(self) -> None:
        self._printed_at = time.monotonic()
        with suppress(OSError):  # the reader has closed the pipe
            print(self.line(200), file=self._console.file, flush=True)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"
