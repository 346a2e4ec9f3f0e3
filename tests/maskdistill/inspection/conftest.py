import shutil

import pytest


@pytest.fixture
def tree(results):
    return results / "results" / "tiny"


@pytest.fixture
def copied(results, tmp_path):
    return shutil.copytree(results / "results" / "tiny", tmp_path / "tiny")
