"""Imports without what nobody needs of them."""

import os
import subprocess
import sys

import pytest

from dnnjob.imports import hidden, without_notices


def test_a_hidden_package_looks_absent_inside_alone() -> None:
    name = "sndhdr_of_tests"
    sys.modules.pop(name, None)

    with hidden(name), pytest.raises(ImportError):
        __import__(name)

    assert name not in sys.modules


def test_a_package_that_is_imported_already_stays() -> None:
    with hidden("os"):
        assert __import__("os") is os


def test_known_notices_are_dropped_and_all_else_is_told_in_order(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with without_notices():
        os.write(2, b"before\nI0000 port.cc:153] oneDNN custom operations are on. You may\n")
        os.write(
            2, b"WARNING: All log messages before absl::InitializeLog() is called are\nE: no\n"
        )

    assert capfd.readouterr().err == "before\nE: no\n"


def test_an_error_inside_leaves_stderr_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with without_notices():
            os.write(2, b"cannot load\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()

    os.write(2, b"after\n")
    assert capfd.readouterr().err == "cannot load\nafter\n"


def test_a_process_without_stderr_imports_all_the_same() -> None:
    code = "import os; os.close(2)\nfrom dnnjob.imports import without_notices\n"
    code += "with without_notices(): print('inside')"

    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)

    assert done.stdout == b"inside\n"


def test_a_terminal_that_is_gone_fails_nothing() -> None:
    code = "import os\nfrom dnnjob.imports import without_notices\n"
    code += "read, write = os.pipe(); os.close(read); os.dup2(write, 2)\n"
    code += "with without_notices(): os.write(2, b'lost')\nprint('after')"

    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)

    assert done.stdout == b"after\n"
