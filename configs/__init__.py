"""The settings of a run, as a package, so that other projects compose them in Hydra: pkg://denoised_mdp.configs."""
