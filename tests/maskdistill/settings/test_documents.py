import jsonschema
import pytest
import yaml

from workflow_scripts import describe_config
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.settings import checks, documents, layers
from workflow_scripts.maskdistill.settings.whole_config import DatasetConfig, WorkflowConfig

FORMATS = "By hand.\n\n| folder | what opens it | notes |\n| --- | --- | --- |\n"
DATASETS = sorted((REPOSITORY / "config" / "datasets").glob("*.yaml"))


def test_the_files_are_up_to_date():
    assert describe_config.main(["--check"]) == 0


def test_a_file_that_is_out_of_date_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(describe_config, "REPOSITORY", tmp_path)
    readme = tmp_path / "config" / "README.md"
    readme.parent.mkdir()
    readme.write_text(f"{FORMATS}| old |\n| `model` | more |\n\n## All keys\n\n| old |\n")
    with pytest.raises(InputError, match=r"default\.yaml: out of date; run"):
        describe_config.main(["--check"])
    assert not (tmp_path / "config" / "default.yaml").exists()
    assert describe_config.main([]) == describe_config.main(["--check"]) == 0
    assert readme.read_text().startswith(f"{FORMATS}| `coco` | ")
    assert "\n| `voc` | PASCAL VOC" in readme.read_text()
    assert "\n| `model` | more |\n\n## All keys\n\nEvery key" in readme.read_text()
    assert "| old |" not in readme.read_text()


def test_the_defaults_are_those_of_the_classes():
    default = yaml.safe_load(documents.default_yaml())
    own = {"dataset": {"root": ".", "splits": {"train": "."}}}
    written = checks.validate(DatasetConfig, layers.merge(default["defaults"], own), source="here")
    assert written == checks.validate(DatasetConfig, own, source="here")
    left_out = WorkflowConfig(defaults=default["defaults"])
    assert checks.validate(WorkflowConfig, default, source="here") == left_out


def test_no_line_of_the_defaults_is_too_long():
    assert all(len(line) <= 100 for line in documents.default_yaml().splitlines())


def test_the_schemas_accept_what_is_shipped_and_no_other_key():
    validator = jsonschema.Draft202012Validator(documents.dataset_schema())
    for path in DATASETS:
        validator.validate(layers.read_yaml(path))
    assert not validator.is_valid({"masks": {"topk": 0.3}})
    assert not validator.is_valid({"masks": {"top_k": 1.3}})
    schema = documents.workflow_schema()
    for name in ("overrides", "defaults"):
        assert schema["properties"][name].pop("$ref") == "dataset.schema.yaml"
    default = layers.read_yaml(REPOSITORY / "config" / "default.yaml")
    jsonschema.validate(default, schema)
