"""From images to clusters of object masks, without training."""
