"""Comparison with the authors' code: imports their weights, and compares every number with theirs.

weights  the names and layouts of their weights; import
parity   golden files, checked array by array
"""
