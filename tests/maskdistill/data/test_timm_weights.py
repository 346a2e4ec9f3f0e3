"""Fetching from the user's cache and from timm's hub; a server on this machine is the hub."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import time

import pytest
import timm

from workflow_scripts.maskdistill.data import timm_weights
from workflow_scripts.maskdistill.data.download import reachable
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY

BACKBONE = "vit_small_patch16_224.dino"
CONTENT = b"safetensors of a transformer"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub():
    """A server that answers as the hub does, with one file, and what it was asked."""

    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer()

        def do_GET(self):
            self._answer()
            self.wfile.write(CONTENT)

        def _answer(self):
            asked.append((self.command, self.path))
            known = self.path == f"/timm/{BACKBONE}/resolve/main/model.safetensors"
            self.send_response(200 if known or self.path == "/" else 404)
            self.send_header("ETag", f'"{DIGEST}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def fetch(folder, endpoint, **variables):
    """Run the program, with a cache of the hub and checksums in a folder."""
    command = [sys.executable, "-m", "workflow_scripts.fetch_weights", "--backbone", BACKBONE]
    command += ["--output", str(folder / "data" / "a.safetensors")]
    command += ["--checksums", str(folder / "checksums.json")]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": endpoint,
        **variables,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)


def test_fetched_once_then_from_the_cache(tmp_path, hub):
    endpoint, asked = hub
    target = tmp_path / "data" / "a.safetensors"

    done = fetch(tmp_path, endpoint)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{target}: SHA-256 {DIGEST}"
    assert target.read_bytes() == CONTENT
    pins = {"timm:vit_small_patch16_224.dino": {"bytes": len(CONTENT), "sha256": DIGEST}}
    assert json.loads((tmp_path / "checksums.json").read_text()) == pins

    # Removed, it comes back without the hub.
    target.unlink()
    asked.clear()
    done = fetch(tmp_path, endpoint, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == CONTENT
    assert asked == []

    # Another content than the recorded one is refused.
    target.unlink()
    (blob,) = (tmp_path / "hub").glob("hub/*/blobs/*")
    blob.write_bytes(b"other")
    done = fetch(tmp_path, endpoint)
    assert done.returncode == 1
    assert f"wrong checksum: SHA-256 {hashlib.sha256(b'other').hexdigest()}" in done.stderr
    assert not target.exists()


def test_without_a_hub_one_line_says_what_to_put_where(tmp_path):
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm_weights, "cached", lambda backbone: None)
        patch.setattr(timm_weights, "hub_address", lambda: "http://127.0.0.1:9")
        with pytest.raises(InputError) as error:
            timm_weights.fetch(BACKBONE, tmp_path / "a.safetensors", tmp_path / "checksums.json")
    assert str(error.value) == (
        f"{tmp_path}/a.safetensors: http://127.0.0.1:9 cannot be reached; put the file "
        f"model.safetensors of timm's {BACKBONE} (from timm's hub) at {tmp_path}/a.safetensors"
    )
    assert time.monotonic() - started < 20  # no retries
    assert list(tmp_path.iterdir()) == []


def test_an_empty_cache_is_known_without_timm(tmp_path):
    """Importing timm takes seconds, which a message about a missing network should not take."""
    code = (
        "import sys; from workflow_scripts.maskdistill.data import timm_weights as weights;"
        f"assert weights.cached({BACKBONE!r}) is None; assert weights.remedy({BACKBONE!r}, 'a');"
        "assert not {'timm', 'torch'} & sys.modules.keys()"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


def test_a_silent_server_counts_as_none_after_the_given_time(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: time.sleep(60))
    started = time.monotonic()
    assert not reachable("http://127.0.0.1:9", seconds=0.2)
    assert time.monotonic() - started < 30


def test_any_answer_is_one(hub):
    endpoint, _ = hub
    assert reachable(endpoint)
    assert reachable(f"{endpoint}/nothing")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("vit_smal_patch16_224", "there is no model .*did you mean 'vit_small_patch16_224'"),
        (
            "vit_small_patch16_224.dinosaur",
            r"no weights of .*; it has .*vit_small_patch16_224.dino;",
        ),
        ("resnet18_missing.a1_in1k", "there is no model"),
    ],
)
def test_names_that_timm_does_not_know(backbone, message):
    with pytest.raises(InputError, match=message):
        timm_weights.repository(backbone)


def test_repositories_are_those_that_timm_names():
    # Neither can be told from the name.
    assert timm_weights.repository("vit_small_patch16_224") == (
        "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
    )
    name = "vit_base_patch32_clip_quickgelu_224.openai"
    assert timm_weights.repository(name) == "timm/vit_base_patch32_clip_224.openai"


def test_every_model_on_the_hub_has_its_weights_in_the_same_file():
    names = timm.list_models(pretrained=True)
    assert {timm.get_pretrained_cfg(name).hf_hub_filename for name in names} == {None}
