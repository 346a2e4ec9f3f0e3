import numpy as np
import pytest

from workflow_scripts import unpack_label_maps
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps, shards


def call(tmp_path, *parts):
    paths = []
    for number, rows in enumerate(parts):
        paths.append(str(tmp_path / f"{number}.parquet"))
        shards.write_table(paths[-1], "label_maps", rows, {})
    output = tmp_path / "out" / "label_maps"
    settings = '--settings={"curation": {"names": ["bird", "cluster_002"]}}'
    assert unpack_label_maps.main([settings, "--shards", *paths, f"--output={output}"]) == 0
    legend = (output / "labelmap.txt").read_text().splitlines()
    assert legend[1:] == ["background:0,0,0::", "bird:128,0,0::", "cluster_002:0,128,0::"]
    return {p.relative_to(output).as_posix(): p for p in output.rglob("*.png")}


def row(image_id, name, value):
    return label_maps.row(image_id, name, np.full((3, 4), value, np.uint8))


def test_one_file_an_image_named_like_it(tmp_path):
    names = ["a/same.jpg", "b/same.jpg", "ü b.tar.webp"]
    rows = [row(n, name, n + 1) for n, name in enumerate(names)]
    files = call(tmp_path, rows[:1], [], rows[1:])
    assert set(files) == {"a/same.png", "b/same.png", "ü b.tar.png"}
    for value, name in enumerate(["a/same.png", "b/same.png", "ü b.tar.png"], start=1):
        assert (label_maps.read_png(files[name]) == value).all()


def test_images_that_differ_in_their_suffix_only(tmp_path):
    rows = [row(n, name, n + 1) for n, name in enumerate(["a.jpg", "a.png", "b/a.jpg"])]
    files = call(tmp_path, rows[:1], rows[1:])
    values = {name: label_maps.read_png(path)[0, 0] for name, path in files.items()}
    assert values == {"a.jpg.png": 1, "a.png.png": 2, "b/a.png": 3}


def test_files_of_an_earlier_run_do_not_stay(tmp_path):
    call(tmp_path, [row(1, "old.jpg", 1), row(2, "both.jpg", 1)])
    files = call(tmp_path, [row(2, "both.jpg", 2)])
    assert set(files) == {"both.png"}
    assert (label_maps.read_png(files["both.png"]) == 2).all()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["label_maps"]


def test_nothing_to_unpack(tmp_path):
    assert call(tmp_path, []) == {}
    assert (tmp_path / "out" / "label_maps").is_dir()


@pytest.mark.parametrize("name", ["../escaped.jpg", "{}/escaped.jpg", "a/../../../escaped.jpg"])
def test_files_do_not_leave_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="outside of the folder"):
        call(tmp_path, [row(1, name.format(tmp_path), 1)])
    assert not list(tmp_path.rglob("escaped*"))
    assert not (tmp_path / "out" / "label_maps").exists()
