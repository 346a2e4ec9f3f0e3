"""Segmentation models: training on label maps, prediction of label maps, CRF and export."""
