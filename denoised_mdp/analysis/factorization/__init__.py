"""Measures the factorization: the true factors in each latent part, on the same held-out episodes for every model.

filtering   recordings through a model's posterior
probes      the leakage matrix: how well each part predicts each true factor
readings    the matrix in detail: a probe's predictions, step by step, beside the truth
headline    the matrix in three numbers; alarm: in words
influence   the relation of the action and the reward to each part
clean_pairs the same physics under other noise: how far does x move?
pictures    the error of the reconstruction, part by part, on the robot and off it
targets     the targets of the probes: numbers, angles, classes
measure     all of it at once
report      the measurements, as JSON, Markdown and PNG
comparison  several runs' reports side by side
monitor     the cheap share of it, during training
"""
