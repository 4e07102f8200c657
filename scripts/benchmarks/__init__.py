"""Benchmarks for `scripts/benchmark.py`. Training does not need them.

    update        one update of model and policy: time, arithmetic, share of the matmul peak, memory, compilation
    convolutions  each convolution of encoder and decoder
    env           pictures per second of the environment; `rendering.py` measures every way of rendering
    replay        batches per second, from the disk and from the page cache
    acting        agent steps per second of encoding, filtering and choosing an action
    pipeline      a short run: the share of the time in which each part works or waits

Each has `measure(config, ...)`, which returns rows of a table. `timing.py` measures, `flops.py` counts the arithmetic
of an update by hand and in a traced program, `machine.py` describes the machine, `table.py` formats the rows.
"""
