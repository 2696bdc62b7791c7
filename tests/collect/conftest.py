"""A cache folder of its own for every test, and roots of made-up runs."""

from collections.abc import Collection
from pathlib import Path

import pytest

from dnnjob.collect import collected_runs
from dnnjob.launch.watch.slurm_answer import Answer
from tests.collect.make_runs import Wish, write_run


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """There is no Slurm; the jobs that it was asked for, one set a question."""
    asked: list[set[str]] = []

    def ask(job_ids: Collection[str], **_: object) -> Answer:
        asked.append(set(job_ids))
        return Answer(fault="no Slurm here")

    monkeypatch.setattr(collected_runs, "ask_slurm", ask)
    return asked


@pytest.fixture
def sweep_root(root: Path) -> Path:
    """Two learning rates with three seeds each; a failed run with a third."""
    errors = {0.01: (10.0, 12.0, 11.0), 0.1: (14.0, 13.0, 18.0)}
    for rate, scores in errors.items():
        for seed, mse in enumerate(scores):
            number = int(rate * 1000) + seed
            wish = Wish(number=number, seed=seed, learning_rate=rate, test_mse=mse)
            write_run(root, wish)
    write_run(root, Wish(number=500, seed=0, learning_rate=1.0), "FAILED")
    return root
