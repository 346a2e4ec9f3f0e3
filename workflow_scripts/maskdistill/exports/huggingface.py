"""An image folder of Hugging Face datasets: `load_dataset("imagefolder", data_dir=…)`.

Columns: image, mask (the final label map as an image), image_id, and objects. `objects` has lists
of equal length with the categories, scores, boxes and masks.
"""

import json
from pathlib import Path

from workflow_scripts.maskdistill.exports.content import (
    Content,
    Picture,
    copy_image,
    write_label_map,
)

CARD = """# {dataset}

Images of the split `{split}` with label maps (`mask`: 0 is background) and confident objects
(`objects`: boxes as x, y, width, height in pixels; masks as COCO's run lengths). MaskDistill made
them without labels.

| label | name |
| --- | --- |
| 0 | background |
{rows}
"""


def write(content: Content, folder: Path) -> None:
    """Write images, masks, metadata.jsonl and a card."""
    base = folder / content.split
    base.mkdir()
    with open(base / "metadata.jsonl", "w", encoding="utf-8") as file:
        for picture in content.pictures():
            row = _row(picture)
            copy_image(content.root / picture.file_name, base / row["file_name"])
            write_label_map(picture.labels, base / row["mask_file_name"])
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = "\n".join(f"| {label} | {name} |" for label, name in enumerate(content.names, start=1))
    card = CARD.format(dataset=content.dataset, split=content.split, rows=rows)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _row(picture: Picture) -> dict:
    objects = picture.objects
    return {
        "file_name": f"images/{picture.name}",
        "mask_file_name": f"masks/{picture.with_suffix('.png')}",
        # As text, because ids of some datasets may exceed the 53 bits that JSON numbers can hold.
        "image_id": str(picture.image_id),
        "objects": {
            "category": [row["cluster"] for row in objects],
            "score": [row["score"] for row in objects],
            "bbox": [
                [row[name] for name in ("x", "y", "box_width", "box_height")] for row in objects
            ],
            "rle_counts": [row["rle_counts"].decode("ascii") for row in objects],
        },
    }
