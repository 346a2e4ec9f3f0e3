"""DeepLab-v3: training on label maps, hard-pixel loss, prediction at the size of the images."""
