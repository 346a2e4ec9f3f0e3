import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from workflow_scripts import compare_cluster_counts
from workflow_scripts.maskdistill.files import masks, provenance, shards
from workflow_scripts.maskdistill.files.atomic import FOLDER_MARK

GROUPS, SIZE = 4, 6


@pytest.fixture
def options(tmp_path, write_manifest):
    """Masks whose embeddings form four groups."""
    count = GROUPS * SIZE
    for number in range(count):
        Image.new("RGB", (30, 20), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    write_manifest(tmp_path / "images", {n: (f"{n}.png", 20, 30) for n in range(count)})
    encoded = masks.encode(np.ones((20, 30), bool))._asdict()
    rows = [{"image_id": n, "mask_id": 0, **encoded, "status": "ok"} for n in range(count)]
    shards.write_table(tmp_path / "masks", "masks", rows, {})
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(GROUPS), SIZE, axis=0) + 0.01 * rng.normal(size=(count, GROUPS))
    rows = [
        {"image_id": n, "mask_id": 0, "embedding": vector.astype(np.float32)}
        for n, vector in enumerate(vectors)
    ]
    shards.write_table(tmp_path / "embeddings", "mask_embeddings", rows, {}, embedding_size=GROUPS)
    settings = {
        "clustering": {"metric": "cosine", "standardize": False, "suggestions": [2, 3, 4, 5]},
        "report": {"crops": 2},
        "seeds": [0, 7],
    }
    files = [f"--{name}={tmp_path / name}" for name in ("images", "masks", "embeddings")]
    files += [f"--settings={json.dumps(settings)}", f"--root={tmp_path}"]
    return [*files, "--dataset=<b>tiny", f"--output={tmp_path / 'out'}"]


def test_the_page_shows_the_suggested_numbers(options, tmp_path, capsys):
    assert compare_cluster_counts.main(options) == 0
    assert "Suggested for 24 masks: 4 clusters" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "out" / "counts.csv")
    assert found["clusters"].tolist() == [2, 3, 4, 5]
    assert found["score"].idxmax() == 2
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>4 clusters</h2>" in page
    assert page.count("<img ") == 4 * 2
    assert page.count('class="sheet"') == 4
    assert "&lt;b&gt;tiny" in page
    assert (tmp_path / "out" / FOLDER_MARK).exists()
    program = provenance.read(tmp_path / "out" / "counts.csv")["program"]
    assert program == "compare_cluster_counts"
