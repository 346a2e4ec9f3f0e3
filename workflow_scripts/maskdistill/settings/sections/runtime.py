"""The section `runtime`: device, threads, GPUs and batch sizes of jobs."""

from typing import ClassVar

from pydantic import Field

from workflow_scripts.maskdistill.settings.section import Count, Section, matching

Device = matching("(auto|cpu|cuda(:[0-9]+)?)", "auto (CUDA if available), cpu, cuda or cuda:N.")


class RuntimeSettings(Section):
    """Resources that jobs use. These settings do not change results or make them stale."""

    section: ClassVar[str] = "runtime"

    device: Device = Field("auto", description="auto (CUDA if available), cpu, cuda or cuda:N.")
    threads: Count = Field(4, description="Threads of one inference job or training process.")
    gpus: Count = Field(
        1,
        description="GPUs of one training, all on one node; torchrun divides batches among them.",
    )
    batch_size: Count = Field(8, description="Images in one pass of inference.")
    checkpoint_every: Count = Field(
        200, description="Training steps between two checkpoints of Mask R-CNN."
    )
