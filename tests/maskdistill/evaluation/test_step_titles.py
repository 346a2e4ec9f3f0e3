from workflow_scripts.maskdistill.evaluation import step_titles


def test_step_titles():
    assert step_titles.step_title("mask_rcnn") == "Mask R-CNN"
    assert step_titles.step_title("segmentation_round_2") == "Segmentation round 2"


def test_steps_of_rounds():
    assert step_titles.step_in_round("segmentation", 0) == "segmentation"
    assert step_titles.step_in_round("linear_probe", 2) == "linear_probe_round_2"
