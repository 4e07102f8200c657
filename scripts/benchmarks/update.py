"""The cost of one update of model and policy, against the machine's own matrix products, measured in between."""

from __future__ import annotations

import functools
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops, machine
from benchmarks.table import Row
from benchmarks.timing import MatmulPeak, Time, spread, timed
from denoised_mdp.agent import Agent
from denoised_mdp.config import Config
from denoised_mdp.runs.replay import Batch
from denoised_mdp.training.devices import Devices
from denoised_mdp.training.vectorized import VectorizedAgent, stack


def random_batches(config: Config, action_size: int, updates: int) -> Batch:
    """Returns K batches [K, T, B] of noise, with the shapes and types of the replay."""
    rng, size = np.random.default_rng(0), config.env.image_size
    shape = (updates, config.train.batch_length, config.train.batch_size)
    return Batch(
        observation=rng.integers(0, 256, (*shape, size, size, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (*shape, action_size)).astype(np.float32),
        reward=rng.uniform(size=shape).astype(np.float32),
        is_first=np.zeros(shape, bool),
        is_terminal=np.zeros(shape, bool),
        factors={},
    )


def measure(config: Config, *, action_size: int, chunk: int, repeats: int, seeds: int = 1) -> list[Row]:
    """Times `repeats` calls of `train_chunk` with `chunk` updates each; the batches are already on the device.

    seeds: number of agents side by side; an iteration is one update of each. Several `devices` share the seeds, or the
    batch.

    Raises:
        UserError: there are too few devices, or they cannot divide the seeds or the batch.
    """
    devices = Devices(config.devices, config.train.batch_size, seeds)
    agent, key = Agent(config, action_size), jax.random.key(0)
    batches = random_batches(config, action_size, chunk)
    state = agent.create(key)
    traced = flops.of_program(agent.train_step, state, jax.tree.map(lambda v: v[0], batches), key)
    if seeds > 1:
        train_chunk = VectorizedAgent(agent, seeds, devices.by_seed).train_chunk
        state, batches = (devices.divide_seeds(stack([tree] * seeds)) for tree in (state, batches))
        key = stack([key] * seeds)
    else:
        train_chunk = devices.compiled(agent.train_chunk)
        state, key = devices.replicate(state), devices.replicate(key)
        batches = jax.device_put(devices.divide(batches))
    started = time.perf_counter()
    program = train_chunk.lower(state, batches, key).compile()
    compiled_in = time.perf_counter() - started
    state, _ = program(state, batches, key)  # the first call allocates memory that later ones re-use
    jax.block_until_ready(state)

    peak = MatmulPeak(config.precision)
    calls: list[Time] = []
    peaks = [peak.measure()]
    for _ in range(repeats):
        taken, (state, _) = timed(functools.partial(program, state, batches, key))
        calls.append(taken)
        peaks.append(peak.measure())

    try:
        counted = flops.of_update(config, action_size)
    except ValueError:  # not counted by hand
        counted = {}
    counted, traced = {part: seeds * count for part, count in counted.items()}, seeds * traced
    flop = sum(counted.values())
    rows = spread("iteration", [call.wall / chunk for call in calls])
    rows += spread("iteration_cpu", [call.cpu / chunk for call in calls], note="user and system, all threads")
    rows += [Row("updates_per_call", chunk), Row("seeds", seeds, "", "an iteration is one update of each")]
    rows += [Row("devices", config.devices, "", "they share an iteration")]
    if flop:
        rows += [Row("flop", flop / 1e9, "GFLOP", "counted by hand: only the necessary ones")]
        rows += [Row(f"flop_{part}", count / 1e9, "GFLOP") for part, count in counted.items()]
    reported = (program.cost_analysis() or {}).get("flops")
    rows += [
        Row("flop_traced", traced / 1e9, "GFLOP", "matrix products and convolutions of the traced program"),
        Row(
            "flop_compiled",
            None if reported is None else reported / 1e9,
            "GFLOP",
            "the compiled program's cost_analysis; it counts the body of a loop once",
        ),
    ]
    fastest = [Time(*map(min, zip(*pair, strict=True))) for pair in pairwise(peaks)]
    rows += _shares(flop or traced, chunk, calls, fastest, devices=config.devices)
    memory = program.memory_analysis()  # None if the backend does not report it
    rows += [
        Row("temporary_memory", memory and memory.temp_size_in_bytes / 2**30, "GiB", "of the compiled program"),
        Row("state_memory", memory and memory.argument_size_in_bytes / 2**30, "GiB", "parameters, moments and batches"),
        Row("compilation", compiled_in, "s", "tracing included, without a cache"),
        machine.resident(),
        machine.on_device(),
    ]
    return rows


def _shares(flop: int, chunk: int, calls: list[Time], peaks: list[Time], *, devices: int) -> list[Row]:
    """Compares each call with the faster of the matrix products before and after it, on as many devices."""
    if jax.default_backend() != "cpu":  # devices made from one CPU share one peak
        peaks = [Time(peak.wall / devices, peak.cpu) for peak in peaks]
    of_wall = [flop * chunk * peak.wall / call.wall for call, peak in zip(calls, peaks, strict=True)]
    rows = [
        Row(
            "peak",
            1e-9 / float(np.median([p.wall for p in peaks])),
            "GFLOP/s",
            "of square matrix products, wall; of all devices",
        ),
        Row(
            "rate",
            flop * chunk * 1e-9 / float(np.median([c.wall for c in calls])),
            "GFLOP/s",
            "of the update, wall",
        ),
        Row("share_of_peak", float(np.median(of_wall)), "", "the median of both measured side by side"),
    ]
    if jax.default_backend() == "cpu":
        of_cpu = [flop * chunk * peak.cpu / call.cpu for call, peak in zip(calls, peaks, strict=True)]
        rows += [
            Row("peak_cpu", 1e-9 / float(np.median([p.cpu for p in peaks])), "GFLOP/s", "for a second of CPU time"),
            Row("share_of_peak_cpu", float(np.median(of_cpu)), "", "in CPU time, which other jobs hardly change"),
        ]
    return rows


def transfer(config: Config, *, action_size: int, chunk: int, repeats: int) -> list[Row]:
    """Times the transfer of the batches of `chunk` updates to the device."""
    batches = random_batches(config, action_size, chunk)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(batches))
    seconds = [timed(lambda: jax.tree.map(jnp.array, batches))[0].wall / chunk for _ in range(repeats)]
    return [*spread("transfer", seconds), Row("batch", size / chunk / 2**20, "MiB", "of one update")]
