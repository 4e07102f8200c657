"""What things cost on this machine: `scripts/benchmark.py` calls these. Nothing here is needed to train.

    update    one update of model and policy: time, arithmetic, share of the machine's matmul peak, memory, compilation
    env       pictures per second of the environment; `rendering.py` measures every way of rendering
    replay    batches per second, from the disk and from the page cache
    acting    agent steps per second of encoding, filtering and choosing an action
    pipeline  a run in little: which part works how much of the time, and which wait

Each has `measure(config, ...)`, which returns rows of a table. `timing.py` measures, `flops.py` counts the arithmetic
of an update by hand and in a traced program, `machine.py` says what it was measured on, `table.py` writes it down.
"""
