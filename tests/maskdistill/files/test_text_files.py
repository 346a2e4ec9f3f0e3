import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.files.text_files import read_lines
from workflow_scripts.maskdistill.settings.layers import read_yaml


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffgröße\r\nb\n".encode())
    assert read_lines(path) == ["größe", "b"]
    legend = tmp_path / "labelmap.txt"
    legend.write_bytes("\ufeff# label:color_rgb:parts:actions\ncat:1,2,3::\n".encode())
    assert label_maps.read_legend(legend) == {"cat": (1, 2, 3)}


def test_another_encoding_is_an_error_with_the_remedy(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("größe\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.txt: not in UTF-8 \(byte 2\); save it as UTF-8"):
        read_lines(path)
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "nowhere.txt")


def test_json_and_yaml_may_have_a_byte_order_mark_but_no_other_encoding(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"a": "ß"}'.encode())
    assert read_json(path, remedy="") == read_yaml(path) == {"a": "ß"}
    path.write_bytes('{"a": "ß"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.json: not valid JSON .*'utf-8' codec"):
        read_json(path, remedy="save it as UTF-8")
    with pytest.raises(InputError, match=r"a\.json: not valid YAML in UTF-8: 'utf-8' codec"):
        read_yaml(path)
