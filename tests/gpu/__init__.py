"""Every stage on a GPU against the CPU: python -m tests.gpu, or make test-gpu.

Modules import nothing at the top but pytest and the standard library, so that the tests are also
collected where Snakemake, FAISS, pycocotools or pydensecrf are missing. `tests.gpu.conftest` says
how a test names what it needs and reports what it measured.
"""
