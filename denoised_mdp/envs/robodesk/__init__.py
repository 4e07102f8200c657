"""A robot arm at the middle of three desks, with buttons, blocks and a television behind them (Appendix B.1.1).

`scene.py` builds the scene from the files of the package `robodesk`, `tasks.py` has the rewards, `world.py` the World,
and `stage.py` the state that the distractors in `envs/noise` change.
Import `world.py` only after `render.backend.choose`.
"""
