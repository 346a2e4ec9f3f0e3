import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import results_tree
from workflow_scripts import inspect_files
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.inspection import queries
from workflow_scripts.maskdistill.repository import REPOSITORY


@pytest.fixture
def tree(results):
    return str(results / "results" / "tiny")


def test_it_runs_by_its_path():
    """Started by its path, a program searches for modules in its own folder first.

    No file in workflow_scripts may then have the name of a module that is imported.
    """
    program, file = "workflow_scripts/inspect_files.py", "resources/demo_backbone.safetensors"
    done = subprocess.run(
        [sys.executable, program, file],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "weights:" in done.stdout


def test_one_stage(tree, capsys):
    assert inspect_files.main([f"{tree}/train/masks"]) == 0
    assert "4 rows in 2 shards" in capsys.readouterr().out


def test_several_paths_and_patterns(tree, capsys):
    assert inspect_files.main([f"{tree}/*/masks/*.parquet", f"{tree}/seed-0/metrics.json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("object masks from the affinities") == 2
    assert "of the split 'val'" in printed


def test_the_overview_of_a_tree(tree, capsys):
    assert inspect_files.main([tree]) == 0
    printed = capsys.readouterr().out
    assert "scored candidates of Mask R-CNN" in printed
    assert "made with" not in printed


def test_faults_are_one_line_each_and_the_rest_is_shown(tree, tmp_path, capsys):
    (tmp_path / "note.md").write_text("text")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    paths = [tmp_path / "note.md", tmp_path / "cut.parquet", f"{tree}/val/masks", tmp_path / "no"]
    assert inspect_files.main(list(map(str, paths))) == 1
    captured = capsys.readouterr()
    assert "3 rows in 2 shards" in captured.out
    faults = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(faults) == 3
    assert "not a file of this workflow" in faults[0]
    assert "damaged, or not a Parquet file" in faults[1]
    assert "no such file" in faults[2]


def test_checking_finds_what_a_glance_does_not(tree, tmp_path, capsys):
    copied = shutil.copytree(f"{tree}/train/features", tmp_path / "features")
    path = copied / "0001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    assert inspect_files.main([str(copied), "--check"]) == 1
    assert "0001.parquet: damaged" in capsys.readouterr().err


def test_one_image_on_one_sheet(results, tree, tmp_path, capsys):
    output = tmp_path / "sheet.png"
    options = [f"--root={results / 'data' / 'tiny'}", f"--output={output}"]
    assert inspect_files.main([tree, f"--image={results_tree.EVIL}", *options]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    with Image.open(output) as image:
        assert image.format == "PNG"
        assert np.asarray(image).std() > 20


def test_the_images_are_found_by_the_config(results, tree, monkeypatch, capsys):
    monkeypatch.chdir(results)
    assert inspect_files.main([f"{tree}/val/masks", "--image", "6"]) == 0
    assert capsys.readouterr().out == "6.png\n"
    Path("6.png").unlink()


def test_a_rejected_image_says_why(tree, tmp_path):
    with pytest.raises(InputError, match="truncated or damaged"):
        inspect_files.main([tree, "--image", results_tree.REJECTED, f"--root={tmp_path}"])


def test_an_image_that_has_changed_since(results, tree, tmp_path):
    shutil.copytree(results / "data" / "tiny", tmp_path / "data")
    Image.new("RGB", (5, 5)).save(tmp_path / "data" / "JPEGImages" / "6.jpg")
    with pytest.raises(InputError, match="listed as 40 x 60"):
        inspect_files.main([tree, "--image=6", f"--root={tmp_path / 'data'}"])


def sql(capsys, path, query):
    assert inspect_files.main([path, "--sql", query]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_every_stage_is_a_table(tree, capsys):
    names = {cells[0] for cells in sql(capsys, tree, "SHOW TABLES")[2:]}
    assert {"images", "features", "masks", "assignments", "centroids", "candidates"} <= names
    assert {"label_maps", "initial_label_maps", "predictions", "per_class"} <= names
    rows = sql(capsys, tree, "SELECT split, count(*) FROM masks GROUP BY 1 ORDER BY 1")
    assert rows[2:] == [["train", "4"], ["val", "3"]]
    assert "seed" not in sql(capsys, tree, "SELECT * FROM masks LIMIT 1")[0]
    (row,) = sql(capsys, tree, "SELECT DISTINCT split, seed, round FROM predictions")[2:]
    assert row == ["val", "0", "0"]


def test_stages_join_by_their_ids(tree, capsys):
    query = (
        "SELECT image_id, cluster, assignments.seed, image FROM images "
        "JOIN assignments USING (image_id) JOIN predictions USING (image_id) "
        "WHERE images.file_name = 'JPEGImages/6.jpg'"
    )
    header, _, row = sql(capsys, tree, query)
    assert header == ["image_id", "cluster", "seed", "image"]
    assert row[:3] == ["6", "2", "0"]
    assert row[3:6] == ["bytes:", row[4], "bytes,"]


def test_a_faulty_query_is_one_line(tree, tmp_path):
    with pytest.raises(InputError, match="--sql: Parser Error") as error:
        inspect_files.main([tree, "--sql", "SELEC"])
    assert "\n" not in str(error.value)
    for empty in ("", " ;"):
        with pytest.raises(InputError, match="an empty query; `SHOW TABLES`"):
            inspect_files.main([tree, "--sql", empty])
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match="no Parquet files"):
        inspect_files.main([str(tmp_path), "--sql", "SELECT 1"])


def test_a_query_names_a_damaged_shard(tree, tmp_path):
    copied = shutil.copytree(tree, tmp_path / "Ünter 'tree'")
    assert inspect_files.main([str(copied), "--sql", "SELECT count(*) FROM masks"]) == 0
    (copied / "train" / "masks" / "0001.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"masks/0001\.parquet: damaged.*; remove it"):
        inspect_files.main([str(copied), "--sql", "SELECT count(*) FROM masks"])


def test_many_rows_are_cut(tree, capsys):
    assert inspect_files.main([tree, "--sql", "SELECT * FROM range(5000)"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + queries.ROWS_SHOWN + 1
    assert "more than" in printed[-1]
