"""Measuring the factorization: what of the truth each latent part knows, on the same held-out episodes for every model.

filtering   recordings through a model's posterior
probes      the leakage matrix: how well each part predicts each true factor
readings    the matrix opened: what a probe reads, step by step, beside the truth
headline    the matrix in three numbers; alarm: in words
influence   what the action and the reward have to do with each part
clean_pairs the same physics under other noise: how far does x move?
pictures    the error of the reconstruction, part by part, on the robot and off it
targets     what is to be predicted: numbers, angles, classes
measure     all of it at once
report      what was measured, as JSON, Markdown and PNG
comparison  several runs' reports side by side
monitor     the cheap share of it, during training
"""
