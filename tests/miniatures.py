"""Miniatures of PASCAL VOC, SBD, COCO 2014 and published weights, in their original formats.

A function for an archive gives its files as a mapping: name in the archive → content.
"""

import argparse
import io
import json
import tarfile
import zipfile

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from workflow_scripts.maskdistill.files import label_maps

HEIGHT, WIDTH = 72, 96
CLASSES = {8: "cat", 15: "person"}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image with two things on it: RGB uint8, and classes and objects with borders of 255."""
    generator = np.random.default_rng(seed)
    image = np.full((HEIGHT, WIDTH, 3), generator.integers(0, 90, 3), np.uint8)
    classes, objects = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    for number, (class_id, left) in enumerate(zip(CLASSES, (6, 54), strict=True), start=1):
        top = int(generator.integers(8, 24))
        thing = np.s_[top : top + 32, left : left + 32]
        image[thing] = generator.integers(100, 255, (32, 32, 3))
        classes[thing] = objects[thing] = 255  # the border
        inside = np.s_[top + 2 : top + 30, left + 2 : left + 30]
        classes[inside], objects[inside] = class_id, number
    return image, classes, objects


def jpeg(image: np.ndarray) -> bytes:
    """An image as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def annotation(name: str, objects: np.ndarray) -> bytes:
    """The boxes of one image, in VOC's XML."""
    boxes = ""
    for number, title in enumerate(CLASSES.values(), start=1):
        rows, columns = np.nonzero(objects == number)
        sides = zip(
            ("xmin", "ymin", "xmax", "ymax"),
            (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1),
            strict=True,
        )
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        boxes += f"<object><name>{title}</name><bndbox>{box}</bndbox></object>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}{boxes}</annotation>".encode()


def voc_files(year: int, names: list[str], lists: dict[str, list[str]]) -> dict[str, bytes]:
    """An archive of VOC; images that are in one of `lists` have masks, the others only boxes."""
    base = f"VOCdevkit/VOC{year}"
    drawn = {name for listed in lists.values() for name in listed}
    files = {}
    for number, name in enumerate(names):
        image, classes, objects = scene(year * 100 + number)
        files[f"{base}/JPEGImages/{name}.jpg"] = jpeg(image)
        files[f"{base}/Annotations/{name}.xml"] = annotation(name, objects)
        if name in drawn:
            files[f"{base}/SegmentationClass/{name}.png"] = label_maps.encode_png(classes)
            files[f"{base}/SegmentationObject/{name}.png"] = label_maps.encode_png(objects)
    for title, listed in lists.items():
        path = f"{base}/ImageSets/Segmentation/{title}.txt"
        files[path] = "".join(f"{name}\n" for name in listed).encode()
    return files


def sbd_files(train: list[str], val: list[str]) -> dict[str, bytes]:
    """The archive of SBD, whose labels are structures in MATLAB files."""
    base = "benchmark_RELEASE/dataset"
    files = {
        f"{base}/{title}.txt": "".join(f"{name}\n" for name in listed).encode()
        for title, listed in (("train", train), ("val", val))
    }
    for number, name in enumerate(train + val):
        _, classes, _ = scene(number)
        labels = np.where(classes == 255, 0, classes).astype(np.uint8)
        buffer = io.BytesIO()
        boundaries = np.empty((20, 1), dtype=object)
        boundaries[:] = [[np.zeros((1, 1))]] * 20
        content = {"Segmentation": labels, "Boundaries": boundaries}
        content["CategoriesPresent"] = np.array([[8], [15]], np.uint8)
        savemat(buffer, {"GTcls": content}, do_compression=True)
        files[f"{base}/cls/{name}.mat"] = buffer.getvalue()
        files[f"{base}/img/{name}.jpg"] = b"left out"
    return files


def coco_name(image_id: int) -> str:
    """The file name of an image of train2014."""
    return f"COCO_train2014_{image_id:012d}.jpg"


def coco_files(ids: list[int]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """COCO's archives of annotations (polygons, and a crowd as run lengths) and of images."""
    images, annotations, pictures = [], [], {}
    for image_id in ids:
        image, classes, objects = scene(image_id)
        name = coco_name(image_id)
        pictures[f"train2014/{name}"] = jpeg(image)
        images.append(
            {"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1}
        )
        rows, columns = np.nonzero(objects == 1)
        x, y, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        polygon = [[float(v) for v in (x, y, right, y, right, bottom, x, bottom)]]
        crowd = coco_mask.encode(np.asfortranarray((classes == 15).astype(np.uint8)))
        runs = run_lengths(classes == 15)
        for segmentation, category, area, box, iscrowd in (
            (polygon, 17, float((right - x) * (bottom - y)), [x, y, right - x, bottom - y], 0),
            (runs, 1, float(coco_mask.area(crowd)), coco_mask.toBbox(crowd), 1),
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "segmentation": segmentation,
                    "area": area,
                    "bbox": [float(v) for v in box],
                    "iscrowd": iscrowd,
                }
            )
    categories = [
        {"id": number, "name": name, "supercategory": "thing"}
        for number, name in ((1, "person"), (17, "cat"))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    text = json.dumps({**content, "info": {}, "licenses": []}).encode()
    return {"annotations/instances_train2014.json": text}, pictures


def run_lengths(mask: np.ndarray) -> dict:
    """The uncompressed run lengths in which COCO stores crowds."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}


def tar(files: dict[str, bytes], compression: str = "") -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(content: object) -> bytes:
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def dino_weights(patch_size: int) -> bytes:
    """DINO's ViT-S: the weights of the teacher only, with timm's names of parameters."""
    torch.manual_seed(patch_size)
    name = f"vit_small_patch{patch_size}_224.dino"
    return saved(timm.create_model(name, num_classes=0).state_dict())


def moco_weights() -> bytes:
    """A checkpoint of MoCo v2: query and key encoder with their heads, the queue, the arguments."""
    torch.manual_seed(0)
    encoder = torchvision.models.resnet50(num_classes=128).state_dict()
    body = {name: value for name, value in encoder.items() if not name.startswith("fc.")}
    head = {"fc.0.weight": torch.zeros(8, 8), "fc.2.weight": torch.zeros(8, 8)}
    state = {f"module.encoder_q.{name}": value for name, value in (body | head).items()}
    state |= {f"module.encoder_k.{name}": value for name, value in head.items()}
    state |= {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1).long()}
    return saved(
        {"epoch": 800, "arch": "resnet50", "state_dict": state, "args": argparse.Namespace(lr=1)}
    )
