"""Against the authors' code: their weights as ours, and every number beside theirs.

weights  their names and layouts; import
parity   golden files, checked array by array
"""
