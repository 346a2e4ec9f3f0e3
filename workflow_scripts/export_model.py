"""Export the trained segmentation model by torch.export and as ONNX, with a model card.

Before the folder appears, both exported models are compared with the trained model on images of
odd, very small and elongated sizes.
"""

import json
from pathlib import Path

import numpy as np
import torch

from workflow_scripts import cli
from workflow_scripts.maskdistill.exports import model_card
from workflow_scripts.maskdistill.files import atomic, provenance, shards
from workflow_scripts.maskdistill.files.json_io import read_json
from workflow_scripts.maskdistill.segmentation import deployment, label_map_prediction


def main(argv: list[str] | None = None) -> int:
    """Write the folder; exit code 0."""
    parser = cli.Parser("export_model", __doc__)
    parser.add_argument("--dataset", required=True, help="the dataset's name")
    parser.add_input("--model", required=True, help="model of train_segmentation or train_vit_head")
    parser.add_input("--images", nargs="+", required=True, help="manifests of the training images")
    parser.add_input("--metrics", help="metrics.json of the model's seed")
    parser.add_argument(
        "--step", default="segmentation", help="step whose metrics the model card shows"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)

    metrics = None
    if options.metrics:
        metrics = read_json(options.metrics, remedy="evaluate writes it")
    predictor = label_map_prediction.load_predictor(options.model, torch.device("cpu"), fast=False)
    model = predictor.model
    statuses = shards.read_table(options.images, ["status"])["status"].to_pylist()
    program = deployment.export(model)
    record = cli.record(options, "model_export")
    with atomic.atomic_folder(options.output, record) as folder:
        torch.export.save(program, folder / "model.pt2")
        deployment.write_onnx(program, folder / "model.onnx")
        loaded = torch.export.load(folder / "model.pt2").module()

        @torch.inference_mode()
        def run(image: np.ndarray) -> tuple[np.ndarray, ...]:
            return tuple(value.numpy() for value in loaded(torch.from_numpy(image)))

        agreement = {
            "model.pt2": deployment.agreement(model, run),
            "model.onnx": deployment.agreement(
                model, deployment.onnx_runner(folder / "model.onnx")
            ),
        }
        print(json.dumps(agreement))
        card = model_card.render(
            dataset=options.dataset,
            images=statuses.count(shards.OK),
            settings=options.settings,
            model=model,
            training=predictor.settings,
            metrics=metrics,
            step=options.step,
            agreement=agreement,
            sizes=deployment.CHECKED_SIZES,
            digest=provenance.file_digest(options.model),
            versions=record["versions"],
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        names = json.dumps(options.settings["curation"]["names"], ensure_ascii=False)
        (folder / "classes.json").write_text(names + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    cli.run(main)
