"""Tests that compare every stage on a GPU with the CPU: python -m tests.gpu, or make test-gpu.

At the top, modules import only pytest and the standard library, so that pytest can collect the
tests on machines without Snakemake, FAISS, pycocotools or pydensecrf. See `tests.gpu.conftest` for
how a test names the libraries that it needs and reports its measurements.
"""
