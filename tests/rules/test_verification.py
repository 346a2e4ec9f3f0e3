"""`verify` on a finished run, before and after its files were changed."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.rules.conftest import Workflow
from workflow_scripts import make_masks, verify
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.settings.layers import merge

pytestmark = pytest.mark.workflow
MASKS = "results/demo/train/masks/0001.parquet"


@pytest.fixture
def copy(finished: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """A copy of the finished run, which becomes the working directory."""
    folder = shutil.copytree(finished.directory, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(folder)
    workflow = Workflow(folder, finished.datasets, finished.overrides)
    workflow.command("all")  # only writes the config file; Snakemake is not run
    return workflow


def differences(capsys: pytest.CaptureFixture, *, code: int) -> dict[str, str]:
    """Path → message of `verify` about it."""
    assert verify.main(["demo", "--configfile", "trial.yaml"]) == code
    lines = capsys.readouterr().out.splitlines()
    return dict(line.split(": ", 1) for line in lines if line.startswith("results/"))


def test_a_finished_run_is_what_its_config_says(copy: Workflow, capsys) -> None:
    assert differences(capsys, code=0) == {}
    found = [*Path("results/demo").rglob("*.parquet"), *Path("results/demo").rglob("*.csv")]
    assert all(provenance.read(path)["program"] for path in found)


def test_a_shard_of_another_top_k_is_named_with_what_was_made_from_it(
    copy: Workflow, capsys
) -> None:
    settings = merge({"masks": provenance.read(MASKS)["settings"]["masks"]}, {})
    settings["masks"]["top_k"] = 0.6
    options = [
        *("--images", MASKS.replace("masks", "images")),
        *("--features", MASKS.replace("masks", "features")),
    ]
    assert make_masks.main(["--settings", json.dumps(settings), *options, "--output", MASKS]) == 0
    found = differences(capsys, code=1)
    assert found[MASKS] == "masks.top_k: 0.6 → 0.2"
    following = {path for path, text in found.items() if f"made from another {MASKS}" in text}
    assert following == found.keys() - {MASKS}
    assert "results/demo/train/mask_embeddings/0001.parquet" in following
    assert "results/demo/train/mask_embeddings/0000.parquet" not in following


def test_edited_settings_name_what_was_made_with_others(copy: Workflow, capsys) -> None:
    changed = merge(yaml.safe_load(Path("trial.yaml").read_text()), {})
    changed["overrides"]["segmentation"]["epochs"] = 2
    Path("trial.yaml").write_text(yaml.safe_dump(changed))
    found = differences(capsys, code=1)
    models = {f"results/demo/seed-0/round-{number}/segmentation" for number in (0, 1)}
    assert {f"{folder}/{name}" for folder in models for name in ("model.pt", "history.csv")} <= (
        found.keys()
    )
    assert "results/demo/train/masks/0000.parquet" not in found
    for folder in models:
        assert found[f"{folder}/model.pt"] == "segmentation.epochs: 1 → 2"


def test_other_weights_are_named(copy: Workflow, capsys) -> None:
    with open("backbone.pth", "ab") as file:
        file.write(b"0")
    found = differences(capsys, code=1)
    stages = {Path(path).parent.name for path in found}
    assert stages == {"features", "mask_embeddings"}
    assert set(found.values()) == {"made from another backbone.pth than there is now"}


def test_files_that_do_not_say_what_made_them_are_named(copy: Workflow, capsys) -> None:
    path = "results/demo/seed-0/per_class.csv"
    Path(path + ".provenance.json").unlink()
    # A file that the user put there is not an output, so it needs no provenance.
    shutil.copy("trial.yaml", "results/demo/seed-0/notes.yaml")
    assert differences(capsys, code=1) == {path: "has no record of the program that made it"}


def test_what_belongs_to_no_seed_of_the_config_is_counted(copy: Workflow, capsys) -> None:
    shutil.copytree("results/demo/seed-0", "results/demo/seed-5")
    assert verify.main(["demo", "--configfile", "trial.yaml"]) == 0
    assert "are of seeds, rounds or variants that the config does not have now" in (
        capsys.readouterr().out
    )


def test_the_report_says_that_its_files_are_what_the_config_says(finished: Workflow) -> None:
    page = (finished.directory / "results/demo/report.html").read_text()
    assert "files that this report was made from match this configuration" in page
