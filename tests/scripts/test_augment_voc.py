from tests import miniatures
from workflow_scripts import augment_voc


def test_copies_are_only_read(tmp_path, capsys):
    files = miniatures.voc_files(2012, ["a", "v"], {"train": ["a"], "val": ["v"]})
    files |= miniatures.sbd_files(["a", "b"], ["v"])
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = [f"--voc={tmp_path / 'VOCdevkit/VOC2012'}"]
    options += [f"--sbd={tmp_path / 'benchmark_RELEASE/dataset'}", f"--output={tmp_path / 'out'}"]
    assert augment_voc.main(options) == 0
    path = tmp_path / "out/ImageSets/Segmentation/train_aug.txt"
    assert capsys.readouterr().out == f"2 images in {path}\n"
    assert path.read_text() == "a\nb\n"
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
