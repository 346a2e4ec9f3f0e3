"""Masks, clusters and trained models on photographs with class masks: python -m tests.bench.photos.

It runs the workflow on a folder in PASCAL VOC's layout, with one or several vision transformers,
and compares its masks with those of other methods on the same keys. No part of `make test`.
"""
