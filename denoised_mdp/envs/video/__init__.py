"""Videos to put behind a robot: gray clips from a procedure (no data needed) or from a directory."""

from denoised_mdp.envs.video.source import PROCEDURAL, SPLITS, Clip, Frames, Split, check, load

__all__ = ["PROCEDURAL", "SPLITS", "Clip", "Frames", "Split", "check", "load"]
