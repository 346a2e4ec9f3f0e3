"""Mask R-CNN trained on pseudo-masks, with exchangeable implementations (`engines`)."""
