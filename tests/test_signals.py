"""A job that is stopped: the run saves first, then whoever started the process is told."""

import os
import signal
import subprocess
import sys

import pytest

from denoised_mdp.training import loop

JOB = """
import signal, sys, time
from denoised_mdp.training import signals

def queue_again(number, frame):
    print("queued again at", signal.Signals(number).name, flush=True)
    sys.exit(144)

signal.signal(signal.SIGUSR2, queue_again)
signal.signal(signal.SIGTERM, lambda number, frame: print("not for me", flush=True))
signals.pass_on(sys.argv[1])
print("done", flush=True)
"""


def start(name: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", JOB, name], stdout=subprocess.PIPE, text=True)


def test_the_signal_that_queues_a_job_again_is_passed_on():
    output, _ = (process := start("SIGUSR2")).communicate(timeout=60)
    assert process.returncode == 144 and output == "queued again at SIGUSR2\n"


def test_a_job_that_is_terminated_waits_for_the_scheduler():
    """Which ends it, or still has it queue itself again."""
    process = start("SIGTERM")
    assert process.stdout is not None and process.stdout.readline() == "not for me\n"
    process.send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 144 and output == "queued again at SIGUSR2\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_without_anybody_to_tell_the_run_just_ends(name):
    output, _ = (process := start(name)).communicate(timeout=60)
    assert process.returncode == 0 and output == "done\n"


def test_a_run_under_nohup_goes_on_when_the_terminal_is_gone():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = object.__new__(loop.Training)
    run.stop_signal = None
    try:
        with run._signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert run.stop_signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_word_to_nobody_is_no_error():
    code = "from denoised_mdp.training import signals; input(); signals.say('saved')"
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=writing) as process:
        os.close(writing)
        os.close(reading)
        process.communicate(b"go\n", timeout=100)
    assert process.returncode == 0


def test_a_run_notes_every_signal_and_gives_the_handlers_back():
    def handler(number, frame):
        pass

    before = {number: signal.signal(number, handler) for number in loop.SIGNALS}
    run = object.__new__(loop.Training)
    try:
        for number in loop.SIGNALS:
            with run._signals():
                os.kill(os.getpid(), number)
            assert run.stop_signal == signal.Signals(number).name and signal.getsignal(number) is handler
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
