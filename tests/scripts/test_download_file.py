import hashlib
import json

import pytest

from tests.http_server import serving
from workflow_scripts import download_file
from workflow_scripts.maskdistill.errors import InputError


def test_the_first_download_decides_what_the_file_is(tmp_path, capsys):
    checksums, target = tmp_path / "checksums.json", tmp_path / "data" / "a.pth"
    with serving() as server:
        server.files["a.pth"] = b"weights"
        options = ["--settings", json.dumps({"url": server.url("a.pth")})]
        options += [f"--checksums={checksums}", f"--output={target}"]
        assert download_file.main(options) == 0
        digest = hashlib.sha256(b"weights").hexdigest()
        assert capsys.readouterr().out == f"{target}: SHA-256 {digest}\n"
        pins = json.loads(checksums.read_text())
        assert pins == {server.url("a.pth"): {"bytes": 7, "sha256": digest}}
        target.unlink()
        server.files["a.pth"] = b"WEIGHTS"
        with pytest.raises(InputError, match="wrong checksum"):
            download_file.main(options)
        assert not list(target.parent.iterdir())
        assert json.loads(checksums.read_text()) == pins
