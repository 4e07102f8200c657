"""The world model, its parts and their building blocks. It depends on neither the configuration nor the disk.

protocol        the interfaces of a batch, of the dynamics and of any world model
world_model     the paper's: encoder, transition, decoder, reward heads; Eq. 4
transition      the graph: priors, posteriors, filtering, open-loop prediction
tia             a baseline, Task Informed Abstractions: two latents, a mask, the adversary
continuation    whether an episode goes on
reward          the weight of the reward's term, and its running variance
balance         the two gradients of a KL, with a weight each
foresight       how much of the reward a model explains, now and some steps ahead
latent          the latent state: its parts x, y and z
distributions   Gaussians, their KL, the policy's squashed one
nets            encoder, decoder, GRU, heads, and their initialisation
convolutions    strided and transposed convolutions, in the form that is fastest on the device
reconstruction  the pictures' squared error
chunks          means over a long axis, chunk by chunk
sharding        how a batch stays divided among devices
optimizer       Adam, and clipping
"""
