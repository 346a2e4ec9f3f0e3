"""The section `runtime`: where and how fast things run."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Section, matching

Device = matching(
    "(auto|cpu|cuda(:[0-9]+)?)", "auto (CUDA where there is any), cpu, cuda or cuda:N."
)


class RuntimeSettings(Section):
    """Where and how fast things run. Nothing here changes a result or makes one stale."""

    section: ClassVar[str] = "runtime"

    device: Device = Field(
        "auto", description="auto (CUDA where there is any), cpu, cuda or cuda:N."
    )
    threads: Count = Field(4, description="Threads of one inference job or training process.")
    gpus: Count = Field(
        1,
        description="GPUs of one training; several, of one node, share its batches under torchrun.",
    )
    batch_size: Count = Field(8, description="Images in one pass of inference.")
    checkpoint_every: Count = Field(
        200, description="Training steps between two checkpoints of Mask R-CNN."
    )
