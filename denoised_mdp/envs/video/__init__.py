"""Videos for backgrounds: clips from a procedure (no data needed) or from a directory, gray or in colour."""

from denoised_mdp.envs.video.source import PROCEDURAL, SPLITS, Clip, Frames, Split, check, load

__all__ = ["PROCEDURAL", "SPLITS", "Clip", "Frames", "Split", "check", "load"]
