"""The run folder: every file name once, atomic writes, attempts, status, and where runs are.

paths = create_run(Path("runs"), job)
journal = Journal(paths)             # claims an attempt
journal.finish("COMPLETED")
"""

from dnnjob.runs.atomic_files import (
    clear_folder,
    write_file,
    write_json,
    write_private,
    write_text,
)
from dnnjob.runs.attempts import (
    claim_attempt,
    count_restarts,
    latest_attempt,
    own_job_id,
)
from dnnjob.runs.events import Event, leave_event, read_events
from dnnjob.runs.journal import (
    SECONDS_BETWEEN_SIGNS,
    FollowerJournal,
    Journal,
)
from dnnjob.runs.judge import FRESH, LAG, JobView, ProcessView, SchedulerAnswer, Verdict, judge
from dnnjob.runs.queue_reasons import describe_queue_reason
from dnnjob.runs.records import (
    Attempt,
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
    clear_leftovers,
    create_run,
    create_sweep,
    is_copy,
    load_run_job,
    open_run,
    read_cancel,
    read_resumption,
    read_settled,
    read_status,
    read_submission,
    read_sweep,
    write_cancel,
    write_resumption,
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
from dnnjob.runs.settle import (
    OVER,
    attempt_number,
    awaits_attempt,
    latest_end,
    settle,
    state_before,
)

__all__ = [
    "FRESH",
    "LAG",
    "OVER",
    "RUN_ID",
    "SECONDS_BETWEEN_SIGNS",
    "SWEEP_FILE",
    "Attempt",
    "Cancel",
    "Event",
    "FollowerJournal",
    "JobView",
    "Journal",
    "Oddity",
    "Position",
    "ProcessView",
    "Progress",
    "Reason",
    "Record",
    "Requested",
    "RunPaths",
    "SchedulerAnswer",
    "State",
    "Status",
    "Submission",
    "Sweep",
    "SweepPaths",
    "SweepPoint",
    "Verdict",
    "attempt_number",
    "awaits_attempt",
    "claim_attempt",
    "clear_folder",
    "clear_leftovers",
    "count_restarts",
    "create_run",
    "create_sweep",
    "describe_queue_reason",
    "find_runs",
    "is_copy",
    "judge",
    "latest_attempt",
    "latest_end",
    "leave_event",
    "load_run_job",
    "open_run",
    "own_job_id",
    "read_cancel",
    "read_events",
    "read_resumption",
    "read_settled",
    "read_status",
    "read_submission",
    "read_sweep",
    "settle",
    "state_before",
    "statistics_folder",
    "write_cancel",
    "write_file",
    "write_json",
    "write_private",
    "write_resumption",
    "write_status",
    "write_submission",
    "write_sweep",
    "write_text",
]
