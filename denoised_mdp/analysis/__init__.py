"""Analysis of a run, and of its model's beliefs.

posterior       an episode through a model's posterior
visualize       an episode decoded part by part, and predicted open-loop
counterfactual  parts swapped between episodes, single dimensions varied, other actions imagined
curves          runs beside each other: curves, any metric, tables
recordings      episodes with the ground truth, under a fixed mixture of policies, in a file that models share
obtain          the same as a user asks for them, in this world's policies or a file
factorization/  the true factors that each latent part contains
regression      how well joints can be told from what an encoder makes of single pictures; regression_report writes it
baselines       returns of random and of constant actions in a world
notebook        pictures and sliders in a notebook
"""
