"""Runs in jobs that a scheduler stops and starts again: what happens once a signal has been noted and the run saved."""

from __future__ import annotations

import os
import signal
import sys


def say(text: str) -> None:
    """Prints, where there is still somebody to read it: after SIGHUP the terminal is gone."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed when Python ends


def pass_on(name: str) -> None:
    """Gives a signal to whoever listened to it before the run did; returns where nobody did.

    submitit does: at SIGUSR2, which comes before the time limit or a pre-emption, it puts the job into the queue again
    and ends the process. Its SIGTERM says nothing of why: the job has been pre-empted or cancelled. To end here would
    look like a job that is done, so that the scheduler is left to end it, and to queue it again if it was pre-empted.
    """
    number = signal.Signals[name]
    handler = signal.getsignal(number)
    if not callable(handler) or handler is signal.default_int_handler:
        return
    handler(number, None)
    while True:
        signal.pause()
