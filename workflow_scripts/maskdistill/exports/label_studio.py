"""Label Studio: tasks with brush predictions, and the labelling interface for them.

Images are referenced as local files. For Label Studio to find them, set the environment variables
LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT to the
dataset's root.
"""

import json
import urllib.parse
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from workflow_scripts.maskdistill.exports.content import Content, Picture
from workflow_scripts.maskdistill.files import label_maps, masks
from workflow_scripts.maskdistill.pictures import drawing

# Numbers of bits for the length of a run; each run uses the smallest sufficient one.
SIZES = (3, 4, 8, 16)
INTERFACE = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image">
{labels}
  </BrushLabels>
</View>
"""


def write(content: Content, folder: Path) -> None:
    """Write tasks.json and interface.xml."""
    with open(folder / "tasks.json", "w", encoding="utf-8") as file:
        file.write("[")
        for number, picture in enumerate(content.pictures()):
            task = json.dumps(_task(picture, content), ensure_ascii=False)
            file.write((",\n" if number else "\n") + task)
        file.write("\n]\n")
    colours = label_maps.colours(np.arange(1, len(content.names) + 1))
    labels = "\n".join(
        f'    <Label value={quoteattr(name)} background="{drawing.css_colour(colour)}"/>'
        for name, colour in zip(content.names, colours, strict=True)
    )
    (folder / "interface.xml").write_text(INTERFACE.format(labels=labels), encoding="utf-8")


def _task(picture: Picture, content: Content) -> dict:
    results = [
        {
            "id": f"{picture.image_id}-{row['candidate_id']}",
            "from_name": "brush",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "score": row["score"],
            "value": {
                "format": "rle",
                "rle": encode(masks.decode_row(row)),
                "brushlabels": [content.names[row["cluster"] - 1]],
            },
        }
        for row in picture.objects
    ]
    prediction = {"model_version": "maskdistill", "result": results}
    if results:
        prediction["score"] = max(result["score"] for result in results)
    address = "/data/local-files/?d=" + urllib.parse.quote(picture.file_name)
    return {"data": {"image": address}, "predictions": [prediction]}


def encode(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's run lengths (the package thi.ng/rle-pack) of an RGBA picture.

    Args:
        mask: H x W bool; inside is 255 in all four channels.

    Returns:
        Bytes with: number of values (32 bits), size of a value minus 1 (5 bits), `SIZES` minus 1
        (4 x 4 bits), then for every run: 1, index into `SIZES` (2 bits), length minus 1, value.
    """
    values = mask.ravel()
    starts = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    lengths = np.diff(starts, append=values.size) * 4
    bits = [f"{values.size * 4:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    longest = 2 ** SIZES[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        while length:
            run = min(length, longest)
            choice = next(i for i, size in enumerate(SIZES) if run <= 2**size)
            bits.append(f"1{choice:02b}{run - 1:0{SIZES[choice]}b}{255 * int(values[start]):08b}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))
