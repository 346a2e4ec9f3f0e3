import json

import pytest
import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import atomic, provenance, shards

RECORD = {"stage": "masks", "settings": {"masks": {"top_k": 0.4}}}


def rows(*clusters):
    for number, cluster in enumerate(clusters):
        yield {"image_id": number, "mask_id": 0, "cluster": cluster, "distance": None}


def write(path, *clusters, record=RECORD):
    shards.write_table(path, "assignments", rows(*clusters), record)
    return path


def test_a_record_names_program_settings_inputs_and_versions(tmp_path):
    one = write(tmp_path / "one.parquet", 1)
    found = provenance.record(
        "masks", {"masks": {}}, program="make_masks", code="abc", inputs=[one], seed=3
    )
    assert found.pop("versions").keys() == {"python", "torch", "numpy", "pyarrow"}
    assert found == {
        "stage": "masks",
        "settings": {"masks": {}},
        "program": "make_masks",
        "code": "abc",
        "inputs": {str(one): provenance.content_digest(one)},
        "seed": 3,
    }


def test_an_input_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: no such file"):
        provenance.record("masks", {}, inputs=[tmp_path / "gone.json"])


def test_the_digest_of_a_shard_is_that_of_its_rows(tmp_path):
    first = provenance.content_digest(write(tmp_path / "a.parquet", 1, 2))
    other_way = write(tmp_path / "b.parquet", 1, 2, record={"stage": "masks", "settings": {}})
    assert provenance.content_digest(other_way) == first
    assert provenance.content_digest(write(tmp_path / "c.parquet", 1, 3)) != first
    assert provenance.content_digest(write(tmp_path / "d.parquet", 1)) != first
    assert provenance.content_digest(write(tmp_path / "e.parquet", 1, None)) != first


def test_what_lies_under_nulls_does_not_enter_the_digest():
    import numpy as np
    import pyarrow as pa

    digests = []
    for hidden in (0, 9):
        values = pa.array(np.array([5, hidden]), mask=np.array([False, True]))
        digest = provenance.RowsDigest()
        digest.add(pa.record_batch([values], names=["a"]))
        digests.append(digest.metadata())
    assert digests[0] == digests[1]


def test_every_format_gives_its_record_back(tmp_path):
    write(tmp_path / "a.parquet", 1)
    (tmp_path / "a.json").write_text(json.dumps({"provenance": RECORD, "steps": {}}))
    coco = {"info": {"description": "", "provenance": RECORD}, "images": []}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "a.html").write_text(provenance.embed_in_html("<body></body></html>\n", RECORD))
    torch.save({"provenance": RECORD, "state_dict": {}}, tmp_path / "a.pt")
    (tmp_path / "a.csv").write_text("a\n1\n")
    provenance.write_record(tmp_path / "a.csv", RECORD)
    (tmp_path / "list.json").write_text("[]")
    provenance.write_record(tmp_path / "list.json", RECORD)
    with atomic.atomic_folder(tmp_path / "folder", RECORD) as folder:
        (folder / "a.png").touch()
    names = ("a.parquet", "a.json", "coco.json", "a.html", "a.pt", "a.csv", "list.json", "folder")
    for name in names:
        assert provenance.read(tmp_path / name) == RECORD, name


def test_files_without_a_record_have_none(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.html").write_text("<body></body>")
    (tmp_path / "folder").mkdir()
    for name in ("a.csv", "a.json", "a.html", "folder"):
        assert provenance.read(tmp_path / name) is None, name


@pytest.mark.parametrize("name", ["a.parquet", "a.json"])
def test_damage_is_one_line_that_names_the_file(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"provenance": ')
    with pytest.raises(InputError, match=f"{name}: damaged or missing"):
        provenance.read(tmp_path / name)


def test_nothing_of_a_record_ends_its_block_of_a_page_early():
    record = {"dataset": "</script><script>alert(1)</script><!--"}
    page = provenance.embed_in_html("<body>\n</body>\n", record)
    assert page.count("<script") == page.count("</script>") == 1
    assert "<!--" not in page
