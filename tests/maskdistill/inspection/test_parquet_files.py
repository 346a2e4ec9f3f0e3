import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.maskdistill.inspection import describe, row_of
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance, shards
from workflow_scripts.maskdistill.inspection import terminal


def test_masks(tree):
    text = describe(tree / "train" / "masks", check=True)
    assert "object masks from the affinities (Eq. 1 and 2): 4 rows in 2 shards" in text
    assert "masks.top_k             0.3" in text
    assert "torch" in text.split("versions")[1]
    assert "4 images, with 1 to 1 masks each, 1 on average" in text
    assert row_of(text, "ok")[:2] == ["4", "100.0%"]
    table = shards.read_table(sorted((tree / "train" / "masks").glob("*")))
    count, least, *_, most = row_of(text, "area")[:6]
    areas = table["area"].to_pylist()
    assert count == "4"
    assert [least, most] == [terminal.number(min(areas)), terminal.number(max(areas))]
    assert "checked: every row can be read, 4 masks decoded" in text


def test_a_manifest_counts_what_was_rejected(tree):
    text = describe(tree / "val" / "images")
    assert row_of(text, "ok")[:2] == ["3", "75.0%"]
    assert row_of(text, "truncated or damaged: <b>cut</b>")[:2] == ["1", "25.0%"]


def test_features(tree):
    text = describe(tree / "val" / "features")
    assert row_of(text, "patches")[:2] == ["3", "150"]
    assert row_of(text, "heads")[:2] == ["3", "2"]
    assert "patch_size" in text


def test_embeddings_and_centroids(tree):
    text = describe(tree / "train" / "mask_embeddings" / "0000.parquet")
    assert row_of(text, "dimensions")[:2] == ["2", "4"]
    assert row_of(text, "norm")[1] == "2"  # of (1, 1, 1, 1)
    text = describe(tree / "seed-0" / "clusters" / "centroids.parquet")
    assert row_of(text, "cosine to the nearest other")[:2] == ["2", "0"]


def test_assignments_show_the_sizes_of_clusters(tree):
    text = describe(tree / "seed-0" / "clusters" / "assignments.parquet")
    assert row_of(text, "1")[0] == row_of(text, "2")[0] == "2"
    assert row_of(text, "distance")[0] == "4"
    assert ["seed", "0"] in [line.split() for line in text.splitlines()]


def test_candidates_count_images_without_any(tree):
    text = describe(tree / "seed-0" / "val" / "candidates")
    assert "3 images, with 0 to 2 candidates each, 1.33 on average; 1 without any" in text
    assert row_of(text, "score")[1:2] == ["0.2"]


def test_shards_made_in_different_ways_are_pointed_out(copied):
    path = copied / "train" / "masks" / "0001.parquet"
    rows = list(shards.read_rows(path))
    metadata = shards.read_metadata(path)
    metadata["settings"]["masks"]["top_k"] = 0.5
    shards.write_table(path, "masks", rows, metadata)
    text = describe(copied / "train" / "masks")
    assert "CAUTION: made in 2 different ways" in text
    assert "1 files, 0001.parquet among them" in text


def test_a_wrong_area_is_found_by_checking(copied):
    path = copied / "train" / "masks" / "0001.parquet"
    rows = list(shards.read_rows(path))
    rows[0]["area"] += 1
    shards.write_table(path, "masks", rows, shards.read_metadata(path))
    describe(copied / "train" / "masks")
    with pytest.raises(InputError, match=r"0001\.parquet: damaged, a mask of image 2 has "):
        describe(copied / "train" / "masks", check=True)


def test_a_mask_that_is_none_is_found_by_checking(copied):
    path = copied / "train" / "masks" / "0000.parquet"
    rows = list(shards.read_rows(path))
    rows[0]["rle_counts"] = rows[0]["rle_counts"][:2]
    shards.write_table(path, "masks", rows, shards.read_metadata(path))
    with pytest.raises(InputError, match=r"0000\.parquet: damaged, a mask of image 0"):
        describe(copied / "train" / "masks", check=True)


def test_parquet_files_of_others(tmp_path):
    pq.write_table(pa.table({"image_id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: .*not written by MaskDistill"):
        describe(tmp_path / "a.parquet")


def test_columns_of_another_version(tmp_path):
    schema = pa.schema([("image_id", pa.int64())]).with_metadata(
        {provenance.METADATA_KEY: json.dumps(provenance.record("masks", {}))}
    )
    pq.write_table(pa.Table.from_pylist([{"image_id": 1}], schema), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="are not those of the stage 'masks'"):
        describe(tmp_path / "a.parquet")
