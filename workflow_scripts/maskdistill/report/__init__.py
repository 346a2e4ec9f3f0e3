"""One HTML file with the results of a run: pictures, clusters, scores, losses, times."""
