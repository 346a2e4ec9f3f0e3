import json

import pytest

from tests import results_tree
from workflow_scripts import write_gallery
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import atomic_folder


def test_without_metrics_there_is_no_ground_truth(results, tmp_path):
    options = results_tree.gallery_options(results, tmp_path / "gallery", truth=False)
    assert write_gallery.main(options) == 0
    text = (tmp_path / "gallery" / "index.js").read_text(encoding="ascii")
    found = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    assert found["evaluated"] is None
    assert "ground_truth" not in [stage["id"] for stage in found["stages"]]


def test_workers_change_nothing_and_old_files_go(results, gallery, tmp_path):
    with atomic_folder(tmp_path / "gallery") as folder:
        (folder / "old.js").write_text("old")
    options = results_tree.gallery_options(results, tmp_path / "gallery")
    assert write_gallery.main([*options, "--workers=2"]) == 0
    files = {path.relative_to(gallery): path for path in gallery.rglob("*") if path.is_file()}
    again = {p.relative_to(tmp_path / "gallery"): p for p in (tmp_path / "gallery").rglob("*.*")}
    assert {name: path.read_bytes() for name, path in files.items()} == {
        name: path.read_bytes() for name, path in again.items()
    }


def test_shards_that_do_not_fit_together_are_an_error(results, tmp_path):
    options = results_tree.gallery_options(results, tmp_path / "gallery")
    at = options.index("--masks")
    with pytest.raises(InputError, match="masks of train: 1 shards, but 2 manifests"):
        write_gallery.main(options[: at + 2] + options[at + 3 :])
    assert not (tmp_path / "gallery").exists()


def test_missing_metrics_are_an_error(results, tmp_path):
    options = results_tree.gallery_options(results, tmp_path / "gallery", truth=False)
    with pytest.raises(InputError, match="run evaluate first"):
        write_gallery.main([*options, f"--metrics={tmp_path / 'none.json'}"])


def test_memory_does_not_grow_with_the_number_of_shards(many):
    all_, one = (int((many / name / "peak").read_text()) / 1024 for name in ("all", "one"))
    # MB. With 20 times the images, memory grows only by the rows of the index.
    assert all_ - one < 60
    assert len(list((many / "all" / "gallery" / "images").rglob("*.js"))) == 10_000
