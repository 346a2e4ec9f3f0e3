# A run of the workflow: its config, which is frozen when it starts, and what is said at its start
# and end.
import os
import re
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

HOME = Path(workflow.basedir)
sys.path.insert(0, str(HOME))

from workflow_scripts.maskdistill.data import datasets
from workflow_scripts.maskdistill.runs import frozen
from workflow_scripts.maskdistill.runs.failed_logs import FailedLogs
from workflow_scripts.maskdistill.runs.declared_settings import Declaration
from workflow_scripts.maskdistill.runs.shell_text import (
    AtStart,
    files_of,
    in_shell,
    one_of,
    option_text,
    program_start,
)
from workflow_scripts.maskdistill.runs.run import Run, parts_of, run_name
from workflow_scripts.maskdistill.runs.unreachable import unreachable_downloads
from workflow_scripts.maskdistill.runs.variants import BASELINES, MAIN
from workflow_scripts.maskdistill.settings.changes import canonical_json
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import step_in_round

# Threads that wait for others spin for some microseconds, then sleep. OpenMP's default of several
# milliseconds would take time from those they wait for when the machine does other things too;
# sleeping at once would wake them too late in loops over small tensors.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Jobs find the interpreter that runs Snakemake, and the package, from any directory.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    PYTHONPATH=os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")])),
    MASKDISTILL_SNAKEMAKE=str(os.getpid()),  # jobs on this machine end when this process ends
)

# Checksums of files that are published without any, recorded by the first download.
CHECKSUMS = shlex.quote(str(HOME / "resources" / "checksums.json"))

ARCHIVES = "data/archives"  # of datasets

# A run uses what its main process has parsed. Its jobs, also those that wait on a cluster and parse
# the rules anew, take all of it from a file, so that a config may be edited meanwhile.
try:
    FROZEN = frozen.this_run(config, HOME, is_main_process=workflow.is_main_process)
    RUN = Run(FROZEN, HOME)
    if workflow.is_main_process:
        RUN.check_listings()
    else:
        config.clear()
        config.update(FROZEN.config)
except InputError as error:
    raise WorkflowError(str(error))


envvars:
    frozen.VARIABLE,


# What has to be downloaded and cannot is said before anything else, and stops a run that needs it.
UNREACHABLE = {}
if workflow.is_main_process and not workflow.output_settings.dryrun:
    UNREACHABLE = unreachable_downloads(RUN, ARCHIVES)
    for line in UNREACHABLE.values():
        logger.warning(line)


onstart:
    if workflow.is_main_process:
        planned = {str(file) for job in workflow.dag.needrun_jobs() for file in job.output}
        if lacking := [line for file, line in UNREACHABLE.items() if file in planned]:
            raise WorkflowError("No job was started. " + "\n".join(lacking))
        frozen.write(FROZEN, os.environ[frozen.VARIABLE])


if workflow.is_main_process:
    logger.addHandler(FailedLogs(logger.error))
    for caution in frozen.cautions(FROZEN):
        logger.warning(caution)

CONFIGS = RUN.configs
RUNTIME = config["runtime"]


# What a run ends with on the terminal: the health of each dataset, if this run has checked it.
STARTED = time.time()


onsuccess:
    for dataset in config["datasets"] if workflow.is_main_process else ():
        log = Path(f"logs/{dataset}/health.log")
        if log.exists() and log.stat().st_mtime >= STARTED:
            logger.info(f"\nHealth of {dataset} (! asks for a look):\n{log.read_text()}")
