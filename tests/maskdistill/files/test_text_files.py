import pytest

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import label_maps
from workflow_scripts.maskdistill.files.text_files import read_lines


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
