"""Inside and outside of a container: what it holds, which mount it lacks."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from dnnjob import image
from dnnjob.collect.write import check_place
from dnnjob.config import load_job
from dnnjob.data.sources import hold_table
from dnnjob.doctor import check_image, check_root
from dnnjob.errors import DataError, JobError, MissingError
from dnnjob.image import is_lost, mount_hint, read_image
from dnnjob.predict import predict_table
from dnnjob.runs import create_run, open_run
from tests.conftest import WriteJob

CONTENT = {
    "target": "cpu",
    "version": "0.1.0",
    "commit": "4f818e7",
    "base": "python:3.11-slim-bookworm",
    "python": "3.11.2",
    "packages": {"numpy": "2.4.6"},
    "system": {"libc6": "2.36-9"},
}
Inside = Callable[..., None]
SAME_USERS = "         0          0 4294967295\n"


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Makes this process believe to run in an image with these mounts."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def enter(*mounts: Path, memory: str = "/dev/shm", users: str = SAME_USERS) -> None:
        file, table = tmp_path / "image.json", tmp_path / "mountinfo"
        file.write_text(json.dumps(CONTENT))
        points = ["/", "/proc", *(str(mount).replace(" ", "\\040") for mount in mounts)]
        lines = [f"36 35 0:31 / {point} rw - overlay o rw\n" for point in points]
        lines.append(f"37 35 0:32 / {memory} rw,nosuid master:3 - tmpfs tmpfs rw,size=64k\n")
        lines.append(f"38 35 0:33 /part {memory}/mounted rw - tmpfs tmpfs rw\n")
        table.write_text("".join(lines))
        (tmp_path / "uid_map").write_text(users)
        monkeypatch.setattr(image, "IMAGE_FILE", file)
        monkeypatch.setattr(image, "MOUNTS", table)
        monkeypatch.setattr(image, "USERS", tmp_path / "uid_map")
        monkeypatch.setattr(image, "LABEL", tmp_path / "label")

    return enter


# What it holds


def test_outside_of_an_image_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert read_image() is None
    assert not is_lost(tmp_path)
    assert mount_hint(tmp_path, to="write") == mount_hint(tmp_path, to="read") == ""
    assert list(check_image()) == []


def test_an_image_says_what_it_holds(inside: Inside) -> None:
    inside()
    assert read_image() == CONTENT
    (finding,) = check_image()
    assert finding.found == "cpu, commit 4f818e7, from python:3.11-slim-bookworm"


# What is lost


def test_what_is_not_on_a_mount_is_lost(inside: Inside, tmp_path: Path) -> None:
    mounted = tmp_path / "with space"
    inside(mounted)
    assert not is_lost(mounted / "runs" / "new")
    assert is_lost(tmp_path / "with")
    assert is_lost(Path("runs"))


def test_a_link_is_where_it_leads(inside: Inside, tmp_path: Path) -> None:
    inside(tmp_path / "scratch")
    (tmp_path / "work" / "runs").symlink_to(tmp_path / "scratch")
    assert not is_lost(Path("runs"))


def test_memory_of_the_container_is_lost_but_not_what_is_mounted_there(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(memory="/tmp-of-it")
    assert is_lost(Path("/tmp-of-it/runs"))
    assert not is_lost(Path("/tmp-of-it/mounted/runs"))
    assert "--volume /tmp-of-it/runs:/tmp-of-it/runs" in mount_hint(
        Path("/tmp-of-it/runs/tiny"), to="write"
    )
    # The host's own, as the script that mounted it says.
    monkeypatch.setenv("DNNJOB_MOUNTED", "/home/me:/tmp-of-it")
    assert not is_lost(Path("/tmp-of-it/runs"))


def test_apptainer_mounts_the_hosts_memory(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(memory="/tmp-of-it")
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/dnnjob.sif")
    assert not is_lost(Path("/tmp-of-it/runs"))
    assert is_lost(Path("/opt/runs"))


def test_tables_and_predictions_that_would_be_lost_are_refused(inside: Inside) -> None:
    inside()
    with pytest.raises(MissingError, match=r"gone with it.*--volume"):
        check_place(Path("table.csv"))
    with pytest.raises(JobError, match=r"gone with it.*--volume"):
        predict_table(Path("runs/a"), "t.csv", out=Path("out.parquet"))


# Which mount is missing


def test_a_root_in_the_image_is_refused_before_anything_is_written(
    inside: Inside, write_job: WriteJob, tmp_path: Path
) -> None:
    job = load_job(write_job())
    inside()
    with pytest.raises(MissingError, match="gone with it") as refused:
        create_run(tmp_path / "scratch" / "runs", job)
    assert f"--volume {tmp_path}/scratch/runs:{tmp_path}/scratch/runs" in str(refused.value)
    assert not (tmp_path / "scratch").exists()
    finding = check_root(tmp_path / "scratch")
    assert finding.state == "note"
    assert "--volume" in str(finding.cure)


def test_a_working_directory_in_the_image_is_to_be_mounted(
    inside: Inside, write_job: WriteJob
) -> None:
    job = load_job(write_job())
    inside()
    with pytest.raises(MissingError, match='--volume "\\$PWD:\\$PWD" --workdir "\\$PWD"'):
        create_run(Path("runs"), job)


def test_a_mount_that_cannot_be_written_asks_for_the_user(
    inside: Inside, write_job: WriteJob
) -> None:
    job = load_job(write_job())
    inside(Path("/sys"))
    with pytest.raises(MissingError, match=f"runs as user {os.getuid()} .* --user"):
        create_run(Path("/sys/none"), job)


def test_where_users_have_other_numbers_podman_is_to_keep_them(inside: Inside) -> None:
    inside(Path("/sys"), users="         0       1000          1\n 1     100000      65536\n")
    hint = mount_hint(Path("/sys/none"), to="write")
    assert "podman run --userns=keep-id" in hint
    assert "--userns=host" in hint
    assert "--user 0:0" in hint


def test_where_files_are_labelled_the_option_against_it_is_named(
    inside: Inside, tmp_path: Path
) -> None:
    inside(Path("/sys"))
    assert "label=disable" not in mount_hint(Path("/sys/none"), to="write")
    (tmp_path / "label").write_text("system_u:system_r:container_t:s0:c1,c2")
    assert "--security-opt label=disable" in mount_hint(Path("/sys/none"), to="write")


def test_a_hint_can_be_pasted_into_a_shell(inside: Inside, tmp_path: Path) -> None:
    inside()
    hint = mount_hint(tmp_path / "it's mine" / "t.csv", to="read")
    words = shlex.split(hint[hint.index("--volume") :].partition(", apptainer")[0])
    assert words == ["--volume", f"{tmp_path}/it's mine:{tmp_path}/it's mine"]


def test_a_missing_table_job_or_run_names_the_folder_to_mount(
    inside: Inside, write_job: WriteJob, tmp_path: Path
) -> None:
    job_file = write_job()
    inside()
    job = load_job(job_file, overrides=["data.source=/data/2026/*.csv"])
    with pytest.raises(DataError, match="--volume /data/2026:/data/2026, apptainer exec --bind"):
        hold_table(job.data)
    with pytest.raises(JobError, match="--volume /jobs:/jobs"):
        load_job(Path("/jobs/a.toml"))
    with pytest.raises(JobError, match="--volume /runs/a:/runs/a"):
        open_run(Path("/runs/a/b"))


def test_a_link_out_of_the_mount_names_where_it_leads(inside: Inside, tmp_path: Path) -> None:
    inside(tmp_path)
    link = tmp_path / "table.csv"
    link.symlink_to("/store/2026/table.csv")
    assert "--volume /store/2026:/store/2026," in mount_hint(link, to="read")


def test_a_file_missing_on_a_mount_has_no_hint(inside: Inside, tmp_path: Path) -> None:
    inside(tmp_path)
    assert mount_hint(tmp_path / "none.csv", to="read") == ""
