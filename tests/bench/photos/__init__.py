"""Masks, clusters and trained models on photographs with class masks: python -m tests.bench.photos.

This benchmark runs the workflow on a folder in PASCAL VOC's layout, with one or several vision
transformers, and compares its masks with masks of other methods that use the same keys.
`make test` does not run it.
"""
