"""One HTML file that shows what a run did: pictures, clusters, scores, losses, times."""
