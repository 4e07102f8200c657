"""What lies on disk: a run's folder, what is kept in it, and how it is read again.

run_dir        whose a folder is, and which checkpoints it has; no jax
sources        files of the user's that a run depends on, by their content; no jax
checkpoint     all that a run goes on from
replay         experience: what is kept of it, and sequences drawn from it; no jax
episode_files  the file of an episode, and what one record in it holds; no jax
device_replay  a copy of it on the accelerator
logger         metrics, pictures and videos: files, TensorBoard, Weights & Biases
metrics        what each of them means
progress       the line that shows how far a run is
evaluation     held-out episodes of an agent that was saved, and their statistics
compilation    jax's cache of compiled programs

Nothing is imported here: what needs no jax shall not pay for it.
"""
