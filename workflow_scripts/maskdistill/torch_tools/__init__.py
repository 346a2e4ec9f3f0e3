"""Code that both trained models share: weights, ResNets, devices, processes, checkpoints."""
