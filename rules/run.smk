# Starting a run of the workflow: its config, which stays the same for all of its jobs, and the
# messages that are printed at its start and at its end.
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

# OpenMP threads that wait for other threads spin for some microseconds and then sleep. By default
# they spin for several milliseconds, which takes processor time from the threads that still work if
# the machine also runs other programs. If they slept at once, they would wake up too late in loops
# over small tensors.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# These variables let jobs find the package and the Python interpreter that runs Snakemake, whatever
# their working directory is.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    PYTHONPATH=os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")])),
    MASKDISTILL_SNAKEMAKE=str(os.getpid()),  # jobs on this machine end when this process ends
)

# Checksums of files that are published without one; the first download records them.
CHECKSUMS = shlex.quote(str(HOME / "resources" / "checksums.json"))

ARCHIVES = "data/archives"  # folder of the archives of downloaded datasets

# Only the main process of a run reads the config files. Its jobs, which may wait on a cluster for
# days, read the result from a file, so that the config may be edited while the run is going.
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


# Files that are missing and cannot be downloaded are reported first. A run that needs one of them
# stops before any job starts.
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


# When a run ends, it prints the health of each dataset whose health it has checked. The start time
# tells which ones these are.
STARTED = time.time()


onsuccess:
    for dataset in config["datasets"] if workflow.is_main_process else ():
        log = Path(f"logs/{dataset}/health.log")
        if log.exists() and log.stat().st_mtime >= STARTED:
            logger.info(
                f"\nHealth of {dataset} (lines with ! need attention):\n{log.read_text()}"
            )
