"""Looking at a run, and at what its model believes.

posterior       an episode through a model's posterior
visualize       an episode decoded part by part, and predicted open-loop
counterfactual  what-ifs: parts swapped between episodes, single dimensions walked, other actions imagined
curves          runs beside each other: curves, any metric, tables
recordings      episodes with the ground truth, under a fixed mixture of policies, in a file that models share
obtain          the same as a user asks for them, in this world's policies or a file
factorization/  what of the truth each latent part knows
regression      how well joints can be told from what an encoder makes of single pictures; regression_report writes it
baselines       what random and held actions earn in a world
notebook        pictures and sliders in a notebook
"""
