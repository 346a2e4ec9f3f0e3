import json

import pytest
import yaml

from workflow_scripts.maskdistill.repository import REPOSITORY
from workflow_scripts.maskdistill.runs import forecast, schedule
from workflow_scripts.maskdistill.settings import checks
from workflow_scripts.maskdistill.settings.backbones import decided
from workflow_scripts.maskdistill.settings.layers import merge, read_preset
from workflow_scripts.maskdistill.settings.whole_config import DatasetConfig

THROUGHPUT = json.loads((REPOSITORY / "resources" / "throughput.json").read_text())["rules"]
DEFAULTS = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())["defaults"]
FOLDERS = [REPOSITORY / "config" / "datasets"]
CONFIG = decided(
    merge(
        DEFAULTS,
        read_preset("standard", FOLDERS, FOLDERS[0]),
        {"dataset": {"root": "a", "splits": {"train": "."}, "ground_truth": False}},
    )
)
VIT = forecast.Backbone(16, 384, 6)
NETWORKS = forecast.Networks(VIT, VIT)
GPU = schedule.Machine("a GPU", 24_000_000_000, 8, 64_000_000_000)
LAPTOP = schedule.Machine(None, 0, 4, 16_000_000_000)


def planned(images, machine, hours=4.0):
    """The schedule, and the hours that it takes."""
    estimated = ({"train": images}, THROUGHPUT, NETWORKS, machine)
    found = schedule.trainings(CONFIG, *estimated, hours)
    seconds = schedule.seconds_of(merge(CONFIG, found), *estimated)
    return found, sum(seconds.values()) / 3600


@pytest.mark.parametrize("images", [3000, 10_000])
def test_a_run_takes_an_evening_on_a_gpu(images):
    found, hours = planned(images, GPU)
    assert 3.2 < hours <= 4.0
    assert found["mask_rcnn"]["batch_size"] == 16
    assert found["mask_rcnn"]["learning_rate"] == CONFIG["mask_rcnn"]["learning_rate"]


def test_few_images_get_no_more_passes_than_in_the_paper():
    found, hours = planned(500, GPU)
    passes = found["mask_rcnn"]["iterations"] * 16 / 500
    assert 0.85 * schedule.PAPER_PASSES < passes <= schedule.PAPER_PASSES
    assert found["segmentation"]["epochs"] == 45
    assert found["segmentation"]["learning_rate_milestones"] == [40]
    assert hours < 4


def test_no_training_is_shorter_than_what_learns_anything():
    found, hours = planned(100_000, LAPTOP)
    assert hours > 40  # which is said, but no reason to train for nothing
    assert found["mask_rcnn"]["iterations"] == schedule.LEAST_ITERATIONS
    assert found["segmentation"]["epochs"] == schedule.LEAST_EPOCHS
    few, _ = planned(20, LAPTOP)
    assert few["segmentation"]["epochs"] * 20 / 4 >= schedule.LEAST_ITERATIONS
    assert few["mask_rcnn"]["learning_rate"] == CONFIG["mask_rcnn"]["learning_rate"] / 4


def test_a_training_that_the_config_leaves_out_leaves_its_time_to_the_other():
    def schedule_of(changes):
        estimated = ({"train": 3000}, THROUGHPUT, NETWORKS, GPU)
        return schedule.trainings(merge(CONFIG, changes), *estimated, 2.0)

    alone = schedule_of({"mask_rcnn": {"enabled": False}})
    assert set(alone) == {"segmentation"}
    assert alone["segmentation"]["epochs"] > schedule_of({})["segmentation"]["epochs"]
    assert set(schedule_of({"segmentation": {"model": "vit_head"}})) == {"mask_rcnn"}
    none = {"mask_rcnn": {"enabled": False}, "segmentation": {"model": "vit_head"}}
    assert schedule_of(none) == {}


def test_learning_rates_are_for_the_configs_batch():
    changes = {"mask_rcnn": {"batch_size": 8, "learning_rate": 0.01}}
    estimated = ({"train": 3000}, THROUGHPUT, NETWORKS, LAPTOP)
    found = schedule.trainings(merge(CONFIG, changes), *estimated, 2.0)["mask_rcnn"]
    assert (found["batch_size"], found["learning_rate"]) == (4, 0.005)


@pytest.mark.parametrize("machine", [GPU, LAPTOP])
@pytest.mark.parametrize("images", [1, 10, 333, 5_000, 2_000_000])
def test_every_schedule_is_valid(machine, images):
    found, _ = planned(images, machine, hours=1.0)
    DatasetConfig.read(merge(CONFIG, found))
    assert checks.all_unreached_falls(merge(CONFIG, found)) == []
    steps, iterations = (found["mask_rcnn"][k] for k in ("learning_rate_steps", "iterations"))
    assert 0 < steps[0] < steps[1] < iterations
    assert found["segmentation"]["learning_rate_milestones"][0] >= 1
    assert found["segmentation"]["learning_rate_milestones"][0] < found["segmentation"]["epochs"]
    assert schedule.shards(images, machine) >= 1


def test_the_time_follows_size_and_stride():
    """As a GPU's does; the table of seconds is for the paper's sizes."""

    def seconds(rule, changes):
        config = decided(merge(DEFAULTS, {"dataset": CONFIG["dataset"]}, changes))
        return forecast.gpu_seconds(config, {"train": 100}, THROUGHPUT, NETWORKS)[rule]

    paper = seconds("train_segmentation", {})
    assert paper == pytest.approx(45 * 100 * THROUGHPUT["train_segmentation"]["seconds"])
    half = seconds("train_segmentation", {"segmentation": {"crop_size": 256}})
    assert half == pytest.approx(paper / 4)
    coarse = seconds("train_segmentation", {"segmentation": {"output_stride": 16}})
    assert coarse == pytest.approx(paper * forecast.STRIDE_16)
    paper = seconds("predict_candidates", {})
    assert paper == pytest.approx(100 * THROUGHPUT["predict_candidates"]["seconds"])
    half = seconds("predict_candidates", {"candidates": {"shorter_side": 400}})
    assert half == pytest.approx(paper / 4)


def test_a_crf_at_half_the_side_takes_a_quarter_of_the_cores():
    def crf(side):
        config = merge(CONFIG, {"crf": {"longer_side": side}})
        without = merge(config, {"crf": {"enabled": False}})
        estimated = ({"train": 100}, THROUGHPUT, NETWORKS, LAPTOP)
        network = THROUGHPUT["refine_predictions"]["seconds"] * LAPTOP.slowdown * 100
        assert schedule.seconds_of(without, *estimated)["refine_predictions"] == 0
        return schedule.seconds_of(config, *estimated)["refine_predictions"] - network

    assert crf(250) == pytest.approx(crf(500) / 4)
    assert crf(None) == crf(500) == crf(1000)
