"""Bad versions are made here, of a model or of a prompt.

network         what networks are like: one table of all architectures
blocks          the language in which an artist names blocks
passes          the mechanism of a worse pass of the same network
skipping        blocks left out
attention       weakened self-attention
tokens          the image's tokens in another order
clock           noise on what the network is told about the noise level
dropout         dropped activations
perturbations   the formulas of these
weights         weaker weights
prompts         weaker prompts
content         which tokens of a prompt are its words
degradations    the formulas of weights and prompts
auto            what is chosen where an artist leaves the choice open
"""
