"""Scores: confusion matrix, matching of clusters to classes, boundaries, mask AP."""
