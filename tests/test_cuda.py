"""The programs of learning and acting are lowered for CUDA on a machine without a GPU, as they would be with one.

No test here compiles or runs them: that needs a GPU (scripts/gpu_report.sh).
"""

import jax
import numpy as np
import pytest
from jax import export
from test_agent import make_batches

from denoised_mdp.agent import Agent
from denoised_mdp.config.compose import compose

DEBUG = ["size=debug", "model.encoder=conv", "model.decoder=conv", "model.conv_features=1"]


@pytest.mark.parametrize("settings", [["size=small"], [*DEBUG, "model=xyz", "policy=sac", "precision=bfloat16"]])
def test_programs_are_lowered_for_cuda(settings, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # for the forms of convolution that GPUs are given
    agent = Agent(compose(settings), 2)
    state, key = agent.shapes(), jax.eval_shape(lambda: jax.random.key(0))
    batches, memory = make_batches(2, length=8), jax.eval_shape(lambda: agent.initial(1))
    learning = export.export(agent.train_chunk, platforms=["cuda"])(state, batches, key)
    now = (np.zeros((1, 64, 64, 3), np.uint8), np.ones(1, bool))
    acting = export.export(agent.act, platforms=["cuda"])(agent.acting(state), memory, *now, key, explore=True)
    convolves = agent.config.model.encoder == "conv"
    for program in (learning, acting):
        assert program.platforms == ("cuda",)
        assert ("stablehlo.convolution" in program.mlir_module()) == convolves
