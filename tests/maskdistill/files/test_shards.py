import errno
import hashlib
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import provenance, shards

VECTOR = np.linspace(-1, 1, 6, dtype=np.float32)
BOX = {"x": 1.0, "y": 2.0, "box_width": 3.0, "box_height": 4.0, "area": 5.5}
RLE = {"rle_counts": b"0\xff1", "height": 7, "width": 8}
CANDIDATE = {"image_id": 2**51, "candidate_id": 3, "cluster": 4, "score": 0.5, **BOX, **RLE}
LABEL_MAP = {"image_id": 1, "file_name": "ä b.jpg", "image": {"bytes": b"\x89P", "path": "ä b.png"}}
# One full row a stage, in the order of the columns.
ROWS = {
    "images": {
        "image_id": 2**52 - 1,
        "file_name": "ä b.jpg",
        "height": 3,
        "width": 4,
        "shard": 5,
        "status": "ok",
    },
    "features": {
        "image_id": 1,
        "grid_height": 2,
        "grid_width": 3,
        "resized_height": 4,
        "resized_width": 5,
        "cls_affinity": VECTOR,
        "keys": VECTOR.astype(np.float16),
        "tokens": VECTOR.astype(np.float16),
        "status": "ok",
    },
    "masks": {
        "image_id": 1,
        "mask_id": 0,
        "height": 7,
        "width": 8,
        "rle_counts": b"0\xff1",
        **BOX,
        "source_row": 1,
        "source_col": 2,
        "proposals": 3,
        "share": 0.5,
        "quality": 0.25,
        "status": "ok",
    },
    "mask_embeddings": {"image_id": 1, "mask_id": 2, "embedding": VECTOR},
    "assignments": {"image_id": 1, "mask_id": 2, "cluster": 3, "distance": 0.25},
    "centroids": {"cluster": 1, "size": 2**40, "centroid": VECTOR},
    "candidates": CANDIDATE,
    "confident": CANDIDATE,
    "label_maps": LABEL_MAP,
    "predictions": LABEL_MAP,
}


def numbered(count):
    return [{**ROWS["images"], "image_id": i, "file_name": f"{i}.png"} for i in range(count)]


@pytest.mark.parametrize("stage", ROWS)
def test_rows_of_every_stage_come_back(tmp_path, stage):
    path = tmp_path / "a.parquet"
    rows = [ROWS[stage], {"cluster": 2} if stage == "centroids" else {"image_id": 9}]
    shards.write_table(path, stage, rows, provenance.record(stage, {}), embedding_size=len(VECTOR))
    full, sparse = shards.read_rows(path)
    assert list(full) == list(ROWS[stage])
    for name, value in ROWS[stage].items():
        if isinstance(value, np.ndarray):
            assert full[name].dtype == value.dtype
            np.testing.assert_array_equal(full[name], value)
        else:
            assert full[name] == value
            assert type(full[name]) is type(value)
    given = {name: value for name, value in sparse.items() if value is not None}
    assert given == rows[1]


@pytest.mark.parametrize("stage", ROWS)
def test_every_shard_has_the_same_schema_even_without_rows(tmp_path, stage):
    for name, rows in (("full", [ROWS[stage]]), ("empty", [])):
        shards.write_table(tmp_path / name, stage, rows, {"n": name}, embedding_size=6)
    full, empty = (pq.read_schema(tmp_path / name) for name in ("full", "empty"))
    assert full.equals(empty)
    assert full.names == list(ROWS[stage])
    assert list(shards.read_rows(tmp_path / "empty")) == []
    assert shards.read_table([tmp_path / "full", tmp_path / "empty"]).num_rows == 1


def test_a_misspelt_column_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="statsu"):
        shards.write_table(tmp_path / "a.parquet", "images", [{"statsu": "ok"}], {})
    assert os.listdir(tmp_path) == []


def test_provenance_is_in_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    settings = {"masks": {"top_k": 0.4, "heads": None}}
    shards.write_table(path, "images", [], provenance.record("masks", settings, weights="abc"))
    metadata = json.loads(pq.read_schema(path).metadata[b"maskdistill"])
    assert metadata == shards.read_metadata(path)
    assert metadata["stage"] == "masks"
    assert metadata["settings"] == settings
    assert metadata["weights"] == "abc"
    assert metadata["versions"]["numpy"] == np.__version__


def test_an_error_inside_leaves_the_old_shard_and_nothing_else(tmp_path):
    path = tmp_path / "a.parquet"
    shards.write_table(path, "images", numbered(2), {})
    before = path.read_bytes()

    def fail():
        with shards.shard_writer(path, "images", {}, rows_per_group=1) as writer:
            for row in numbered(5):
                writer.write(row)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(InputError, match=r"a\.parquet: no space left"):
        shards.write_table(tmp_path / "a.parquet", "images", numbered(1), {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_order_and_streaming(tmp_path, batch_size):
    path = tmp_path / "a.parquet"
    rows = numbered(50)[::-1]
    with shards.shard_writer(path, "images", {}, rows_per_group=8) as writer:
        for row in rows:
            writer.write(row)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8] * 6 + [
        2
    ]
    assert list(shards.read_rows(path, batch_size=batch_size)) == rows
    some = list(shards.read_rows(path, ["image_id", "status"], batch_size=batch_size))
    assert some == [{"image_id": row["image_id"], "status": "ok"} for row in rows]
    stream = shards.read_rows(path, batch_size=batch_size)
    assert next(stream) == rows[0]
    stream.close()


def test_vectors_of_unequal_length_keep_their_own_values(tmp_path):
    path = tmp_path / "a.parquet"
    vectors = [np.arange(n, dtype=np.float16) + n for n in (3, 0, 5, 1)]
    rows = [{"image_id": i, "keys": vector} for i, vector in enumerate(vectors)]
    shards.write_table(path, "features", [*rows, {"image_id": 9}], {})
    for batch_size in (1, 2, 10):
        *read, last = shards.read_rows(path, batch_size=batch_size)
        assert last["keys"] is None
        for row, vector in zip(read, vectors, strict=True):
            assert row["keys"].dtype == np.float16
            np.testing.assert_array_equal(row["keys"], vector)


def test_a_vector_of_another_length_than_the_schema_is_an_error(tmp_path):
    row = {"image_id": 1, "mask_id": 0, "embedding": VECTOR}
    with pytest.raises(pa.ArrowInvalid):
        shards.write_table(tmp_path / "a", "mask_embeddings", [row], {}, embedding_size=5)


def test_read_table_keeps_the_order_of_the_paths(tmp_path):
    paths = []
    for number in (3, 1, 2):
        paths.append(tmp_path / f"{number}.parquet")
        row = {**ROWS["images"], "image_id": number}
        shards.write_table(paths[-1], "images", [row], {"other": number})
    assert shards.read_table(paths, ["image_id"]).to_pydict() == {"image_id": [3, 1, 2]}


def test_row_groups_end_at_a_number_of_bytes(tmp_path, monkeypatch):
    """So that neither a group nor an array of its bytes exceeds Arrow's 2 GiB."""
    monkeypatch.setattr(shards, "BYTES_PER_GROUP", 1000)
    path = tmp_path / "a.parquet"
    sizes = [400, 400, 400, 2000, 10, 10, 990]
    rows = [
        {"image_id": i, "file_name": f"{i}.jpg", "image": {"bytes": bytes([i]) * size, "path": ""}}
        for i, size in enumerate(sizes)
    ]
    shards.write_table(path, "label_maps", rows, {})
    found = pq.ParquetFile(path).metadata
    groups = [found.row_group(i).num_rows for i in range(found.num_row_groups)]
    assert groups == [2, 1, 1, 2, 1]
    table = shards.read_table([path, path], ["image"])
    # No chunk joins groups.
    assert table["image"].num_chunks == 2 * len(groups)
    assert table["image"].to_pylist() == [row["image"] for row in rows] * 2
    assert list(shards.read_rows(path)) == rows


def test_rows_are_taken_from_tables_of_many_chunks():
    chunks = [pa.array([bytes([i]), bytes([i, i])], pa.binary()) for i in range(5)]
    table = pa.table({"rle_counts": pa.chunked_array(chunks), "image_id": range(10)})
    found = list(shards.rows_in_order(table, [9, 0, 5], batch_size=2))
    assert found == [
        {"rle_counts": bytes([i // 2] * (1 + i % 2)), "image_id": i} for i in (9, 0, 5)
    ]


@pytest.mark.parametrize(
    "reason",
    [
        "Nested data conversions not implemented for chunked array outputs",
        "offset overflow while concatenating arrays",
        "array cannot contain more than 2147483646 bytes, have 2147483647",
    ],
)
def test_a_shard_that_is_too_large_is_not_called_damaged(tmp_path, monkeypatch, reason):
    shards.write_table(tmp_path / "a.parquet", "images", [], {})

    def fail(path):
        raise pa.ArrowInvalid(reason)

    monkeypatch.setattr(shards, "_open", fail)
    with pytest.raises(InputError, match=r"a\.parquet: .* 2 GiB .* set more shards") as raised:
        shards.read_table([tmp_path / "a.parquet"])
    assert "damaged" not in str(raised.value)


def test_group_by_image(tmp_path):
    rows = [{"image_id": i, "mask_id": m} for i, m in ((5, 0), (2, 0), (5, 1))]
    shards.write_table(tmp_path / "a", "masks", rows, {})
    groups = shards.group_by_image(tmp_path / "a", ["image_id", "mask_id"])
    assert groups == {5: [rows[0], rows[2]], 2: [rows[1]]}


def test_the_rows_of_one_image(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{**ROWS["features"], "image_id": i} for i in (5, 7, 5)]
    shards.write_table(path, "features", rows, {})
    assert shards.count_rows(path) == 3
    found = shards.rows_of_image(path, 5)
    assert [row["image_id"] for row in found] == [5, 5]
    assert isinstance(found[0]["keys"], np.ndarray)
    np.testing.assert_array_equal(found[1]["keys"], ROWS["features"]["keys"])
    assert shards.rows_of_image(path, 6) == []


def test_duckdb_opens_all_shards_by_glob(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    for number, count in enumerate((3, 0, 4)):
        path = tmp_path / f"{number:04d}.parquet"
        shards.write_table(path, "images", numbered(count), {"shard": number})
    query = f"SELECT count(*), max(width), min(status) FROM '{tmp_path}/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(7, 4, "ok")]


@pytest.mark.parametrize("reader", ["metadata", "table", "rows", "image"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "footer", "body"])
def test_damaged_files_are_named(tmp_path, damage, reader):
    path = tmp_path / "a.parquet"
    shards.write_table(path, "images", numbered(2000), {})
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(
        {
            "missing": b"",
            "empty": b"",
            "text": b"PAR1 but not really",
            "cut": data[:half],
            "footer": data[:-300] + bytes(292) + data[-8:],
            "body": data[:4] + bytes(half - 4) + data[half:],
        }[damage]
    )
    if damage == "missing":
        path.unlink()
    read = {
        "metadata": lambda: shards.read_metadata(path),
        "table": lambda: shards.read_table([path]),
        "rows": lambda: list(shards.read_rows(path)),
        "image": lambda: shards.rows_of_image(path, 5),
    }[reader]
    if (damage, reader) == ("body", "metadata"):
        assert read() == {}
        return
    with pytest.raises(InputError, match=r"a\.parquet: (no such file|damaged).*; ") as error:
        read()
    assert "\n" not in str(error.value)


def test_the_parquet_files_of_others_are_recognised(tmp_path):
    pq.write_table(pa.table({"image_id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: .*not written by MaskDistill"):
        shards.read_metadata(tmp_path / "a.parquet")


def test_metadata_that_are_damaged(tmp_path):
    # They have no checksum.
    table = pa.table({"image_id": [1]})
    for metadata in (b'{"stage": "ima', b'{"stage": "\xff"}'):
        damaged = table.replace_schema_metadata({provenance.METADATA_KEY: metadata})
        pq.write_table(damaged, tmp_path / "a.parquet")
        with pytest.raises(InputError, match=r"a\.parquet: damaged.*; remove it and run its stage"):
            shards.read_metadata(tmp_path / "a.parquet")


def test_same_images():
    shards.assert_same_images([1, 2, 2], iter([2, 1]), "masks")
    with pytest.raises(InputError, match=r"masks: .*missing ids: \[3\], unexpected ids: \[5\]"):
        shards.assert_same_images([1, 3], [1, 5], "masks")


def test_file_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert provenance.file_digest(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_byte_is_found(tmp_path):
    path = tmp_path / "0000.parquet"
    vectors = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    rows = [{"image_id": i, "mask_id": 0, "embedding": v} for i, v in enumerate(vectors)]
    shards.write_table(path, "mask_embeddings", rows, {}, embedding_size=64)
    column = pq.read_metadata(path).row_group(0).column(2)
    data = bytearray(path.read_bytes())
    first = column.dictionary_page_offset or column.data_page_offset
    data[first + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    for read in (
        lambda: shards.read_table([path]),
        lambda: list(shards.read_rows(path)),
        lambda: shards.rows_of_image(path, 20),
    ):
        with pytest.raises(InputError, match="damaged"):
            read()


def test_usable_images_are_those_with_status_ok(tmp_path, write_manifest):
    entries = {3: ("3.png", 4, 5), 7: ("bad.png", None, None, "missing file"), 1: ("1.png", 6, 7)}
    rows = shards.read_usable(write_manifest(tmp_path / "images.parquet", entries))
    assert [(row["image_id"], row["height"]) for row in rows] == [(3, 4), (1, 6)]
