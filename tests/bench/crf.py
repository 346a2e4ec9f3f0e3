"""Seconds per image of the CRF, with one process and with one process per core."""

import os
import time
from collections.abc import Iterator

import numpy as np
import scipy.special

from tests.bench import Row, median_seconds
from tests.rules.conftest import REPOSITORY
from workflow_scripts.maskdistill.files import image_sizes, images
from workflow_scripts.maskdistill.segmentation import crf
from workflow_scripts.maskdistill.settings.sections.crf import CRFSettings

SIZE, LABELS = (375, 500), 21


def rows() -> Iterator[Row]:
    """Seconds per image with one process, and with one process per core."""
    generator = np.random.default_rng(0)
    photograph = images.read_image(REPOSITORY / "resources" / "example.jpg")
    image = np.array(image_sizes.resize(photograph, SIZE))
    logits = generator.normal(size=(LABELS, 15, 20)).repeat(25, 1).repeat(25, 2)
    probabilities = scipy.special.softmax(3 * logits, axis=0).astype(np.float32)
    settings = CRFSettings()
    alone = median_seconds(lambda: crf.refined_labels(probabilities, image, settings), repeats=3)
    yield Row(what=f"CRF, {SIZE[0]} x {SIZE[1]}, {LABELS} labels", value=alone, unit="s/image")
    cores = os.cpu_count()
    count = 2 * cores
    items = [crf.Item(number, probabilities, image, SIZE) for number in range(count)]
    with crf.start_workers(cores, settings) as workers:
        start = time.perf_counter()
        for _ in workers.refine(items):
            pass
        seconds = time.perf_counter() - start
    yield Row(
        what=f"CRF with {cores} processes",
        value=seconds / count,
        unit="s/image",
        reference=alone / cores,
        against="time of one process / number of cores",
    )
