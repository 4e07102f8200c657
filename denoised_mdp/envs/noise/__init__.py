"""Distractors: each wraps a World and is optional, so that any of them can be used alone."""
