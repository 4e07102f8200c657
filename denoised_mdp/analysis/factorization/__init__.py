"""Measures the factorization: the true factors in each latent part, on the same held-out episodes for every model.

filtering   filters recordings with a model's posterior
probes      the leakage matrix: how well each part predicts each true factor
readings    the matrix in detail: a probe's predictions, step by step, beside the truth
headline    the matrix as three numbers; alarms in words
influence   the relation of the action and the reward to each part
clean_pairs the movement of x between noises, under the same physics
pictures    the error of the reconstruction, part by part, on the robot and off it
targets     the targets of the probes: numbers, angles, classes
standard    the measures of the literature: MIG, SAP, DCI, MCC
measure     all measures together
report      the measures, as JSON, Markdown and PNG
comparison  several runs' reports side by side
monitor     the cheap measures, during training
"""
