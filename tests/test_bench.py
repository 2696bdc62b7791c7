"""The works of `make bench`: that their tables can be written and their jobs are valid."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dnnjob import cli

HERE = Path(__file__).parent / "bench"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark's modules, which are scripts beside each other."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(HERE))
    import bench  # type: ignore[import-not-found, unused-ignore]
    import inputs  # type: ignore[import-not-found, unused-ignore]
    import work_stream  # type: ignore[import-not-found, unused-ignore]

    for module in (bench, work_stream):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(inputs, "LARGE_ROWS", 2000)
    yield bench
    # Their names are short enough for others.
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(HERE)):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["tasks", "replicas", "tasks-start", "checkpoints", "stream"])
def test_the_runs_of_a_work_are_valid(
    bench: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_exit", sys.exit)
    monkeypatch.setattr("sys.argv", ["bench.py", "--rows", "30000", "--only", name])
    arguments = bench.parse_arguments()

    work = bench.make_works(arguments)[name]()

    assert len(work.contenders) == 2
    for contender in work.contenders:
        _, verb, *words, _, _ = contender.command(1)
        assert verb == "run"
        with pytest.raises(SystemExit) as ended:
            cli.main(["validate", *words])
        assert not ended.value.code, capsys.readouterr().err
