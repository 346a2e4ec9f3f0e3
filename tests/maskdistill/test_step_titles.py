from workflow_scripts.maskdistill import step_titles


def test_step_titles():
    assert step_titles.step_title("mask_rcnn") == "Mask R-CNN"
    assert step_titles.step_title("segmentation_round_2") == "Segmentation round 2"
