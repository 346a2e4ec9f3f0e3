"""Mask R-CNN trained on pseudo-labels, with a choice of implementations (`engines`)."""
