"""Distractors: each wraps a World and may be left out, so that any of them can be had alone."""
