"""Comparison with the authors' code: the import of their weights, and every number beside theirs.

weights  their names and layouts; import
parity   golden files, checked array by array
"""
