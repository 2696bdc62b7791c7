"""The run folder: every file name once, atomic writes, attempts, status, and where runs are.

paths = create_run(Path("runs"), job)
journal = Journal(paths)             # claims an attempt
journal.finish("COMPLETED")
"""

from dnnjob.runs.atomic_files import (
    clear_folder,
    write_file,
    write_json,
    write_text,
)
from dnnjob.runs.attempts import (
    claim_attempt,
    count_restarts,
    latest_attempt,
    own_job_id,
)
from dnnjob.runs.journal import (
    SECONDS_BETWEEN_SIGNS,
    FollowerJournal,
    Journal,
    close_for_chief,
)
from dnnjob.runs.records import (
    Attempt,
    BatchEnd,
    Cancel,
    Position,
    Progress,
    Reason,
    Record,
    Requested,
    State,
    Status,
    Submission,
    Sweep,
    SweepPoint,
)
from dnnjob.runs.run_discovery import (
    SWEEP_FILE,
    Oddity,
    find_runs,
)
from dnnjob.runs.run_files import (
    batch_end_file,
    clear_leftovers,
    create_run,
    create_sweep,
    is_copy,
    open_run,
    read_batch_end,
    read_cancel,
    read_status,
    read_submission,
    read_sweep,
    write_cancel,
    write_status,
    write_submission,
    write_sweep,
)
from dnnjob.runs.run_paths import (
    RUN_ID,
    RunPaths,
    SweepPaths,
    statistics_folder,
)

__all__ = [
    "RUN_ID",
    "SECONDS_BETWEEN_SIGNS",
    "SWEEP_FILE",
    "Attempt",
    "BatchEnd",
    "Cancel",
    "FollowerJournal",
    "Journal",
    "Oddity",
    "Position",
    "Progress",
    "Reason",
    "Record",
    "Requested",
    "RunPaths",
    "State",
    "Status",
    "Submission",
    "Sweep",
    "SweepPaths",
    "SweepPoint",
    "batch_end_file",
    "claim_attempt",
    "clear_folder",
    "clear_leftovers",
    "close_for_chief",
    "count_restarts",
    "create_run",
    "create_sweep",
    "find_runs",
    "is_copy",
    "latest_attempt",
    "open_run",
    "own_job_id",
    "read_batch_end",
    "read_cancel",
    "read_status",
    "read_submission",
    "read_sweep",
    "statistics_folder",
    "write_cancel",
    "write_file",
    "write_json",
    "write_status",
    "write_submission",
    "write_sweep",
    "write_text",
]
