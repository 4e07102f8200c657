"""Runs in jobs that a scheduler stops and starts again: the steps after a signal and the saving of the run."""

from __future__ import annotations

import os
import signal
import sys


def say(text: str) -> None:
    """Prints a text, unless the output is closed: after SIGHUP the terminal is gone."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes the rest when it ends


def pass_on(name: str) -> None:
    """Passes a signal to its handler from before the run; returns if there was none.

    submitit has one: at SIGUSR2, which comes before the time limit or a pre-emption, it queues the job again and ends
    the process. Its SIGTERM gives no reason: the job has been pre-empted or cancelled. If the process ended here, the
    job would seem complete; therefore the scheduler has to end it, and to queue it again if it was pre-empted.
    """
    number = signal.Signals[name]
    handler = signal.getsignal(number)
    if not callable(handler) or handler is signal.default_int_handler:
        return
    handler(number, None)
    while True:
        signal.pause()
