"""Which task a process is, by its environment."""

import pytest

from dnnjob.tasks.task import VARIABLE, Task, find_task

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1,3",
}


def test_a_process_without_a_launcher_is_the_only_task() -> None:
    assert find_task({}) == Task(rank=0, num_tasks=1)


def test_what_the_local_launcher_tells_is_told_once() -> None:
    task = Task(1, 2, "abc", local_tasks=2, launcher="local", parent=12)
    environ = {**SLURM, **task.to_environ()}

    assert find_task(environ) == task
    assert VARIABLE not in environ


def test_the_processes_of_a_slurm_step_are_the_tasks_of_one_run() -> None:
    task = find_task(dict(SLURM))
    other = find_task({**SLURM, "SLURM_PROCID": "0", "SLURM_NODEID": "0"})

    assert (task.rank, task.num_tasks, task.local_tasks, task.launcher) == (2, 4, 3, "slurm")
    assert (other.rank, other.local_tasks, other.is_chief) == (0, 1, True)
    assert task.launch == other.launch


@pytest.mark.parametrize(
    "change",
    [{"SLURM_STEP_ID": "4"}, {"SLURM_JOB_ID": "78"}, {"SLURM_RESTART_COUNT": "1"}],
)
def test_another_step_job_or_restart_is_another_launch(change: dict[str, str]) -> None:
    assert find_task({**SLURM, **change}).launch != find_task(dict(SLURM)).launch


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": ""},
        {"SLURM_STEP_ID": str(0xFFFF_FFFB)},
        {"SLURM_STEP_ID": ""},
    ],
)
def test_batch_scripts_and_steps_of_one_task_are_no_run_of_several(change: dict[str, str]) -> None:
    assert find_task({**SLURM, **change}) == Task()


def test_tasks_of_a_node_are_read_from_slurms_short_form() -> None:
    environ = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}

    assert find_task(environ).local_tasks == 1
    assert find_task({**environ, "SLURM_NODEID": "2"}).local_tasks == 2
