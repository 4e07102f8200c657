"""Denoised MDPs (Wang et al., ICML 2022): world models that tell signal from noise."""
