"""Code for all trained networks: weights, ResNets, devices, several processes, checkpoints."""
