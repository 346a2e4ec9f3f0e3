"""Features, object masks, embeddings and clusters of images, without training a network."""
