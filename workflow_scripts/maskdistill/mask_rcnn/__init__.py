"""Mask R-CNN trained on pseudo-masks: one small interface, engines behind it (`engines`)."""
