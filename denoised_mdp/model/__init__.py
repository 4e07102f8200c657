"""What is believed: the world model, its parts, and what they are made of. It knows no configuration and no disk.

protocol        what others need of any world model, and of a batch
world_model     the paper's: encoder, transition, decoder, reward heads; Eq. 4
transition      the graph: priors, posteriors, filtering, open-loop prediction
tia             a baseline, Task Informed Abstractions: two latents, a mask, the adversary
latent          x, y and z, and what each of them is
distributions   Gaussians, their KL, the policy's squashed one
nets            encoder, decoder, GRU, heads, and how they are initialised
convolutions    strided and transposed ones, in the form that is fastest on the device
reconstruction  the pictures' squared error
chunks          sums over a long axis, some of it at a time
sharding        how a batch stays divided among devices
optimizer       Adam, and clipping
"""
