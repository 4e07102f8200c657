"""The files of a run on disk: writing them and reading them.

run_dir        the owner of a run's folder, and its checkpoints; no jax
study          the runs that a study describes, and how far each has come; no jax
sources        the user's files that a run depends on, by their content; no jax
checkpoint     the saved state from which a run resumes
replay         experience: its contents, and sequences drawn from it; no jax
episode_files  the file of an episode, and the record of a step in it; no jax
device_replay  a copy of the replay on the accelerator
disk           bringing files to the disk, and their checksums; no jax
logger         metrics, pictures and videos: files, TensorBoard, Weights & Biases
metrics        the meaning of each metric
progress       the line that shows the progress of a run
evaluation     held-out episodes of a saved agent, and their statistics
compilation    jax's cache of compiled programs

Nothing is imported here, so that modules without jax load fast.
"""
