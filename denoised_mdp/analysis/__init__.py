"""Analysis of a run, and of its model's latents.

posterior       filters an episode with a model's posterior
visualize       decodes an episode part by part, and predicts it open-loop
counterfactual  swaps parts between episodes, varies single dimensions, imagines other actions
curves          compares runs: learning curves, any metric, tables
statistics      interquartile means, bootstrap intervals, probabilities of improvement
table1          the paper's Table 1 beside the runs
webpage         the report of many runs, as one HTML file
diagnosis       reports why an agent does not learn
action_effects  compares imagined with real effects of actions
recordings      episodes with the ground truth, under a fixed mixture of policies, in a file that models share
obtain          loads or records such episodes as a user requests them
factorization/  measures the true factors in each latent part
regression      predicts joint positions from an encoder's embedding of one picture
regression_report  writes the result as JSON, Markdown and a picture
baselines       returns of random and of constant actions in a world
notebook        pictures and sliders in a notebook
"""
