"""MaskDistill: object masks, clusters and a segmentation model from unlabelled images.

The library behind the workflow. It knows nothing of Snakemake; every module holds one idea, and
imports run one way, from the pictures on disk up to the report.
"""
