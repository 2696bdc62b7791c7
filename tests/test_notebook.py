"""What the pages for notebooks show is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.conftest import CHECKOUT

DOCS = CHECKOUT / "docs"


@pytest.mark.long
def test_the_page_s_blocks_run_from_top_to_bottom(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "notebook.md").read_text(), re.MULTILINE | re.DOTALL
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "has no column 'price'" in done.stdout.splitlines()[-1]


@pytest.mark.long
def test_the_notebook_runs_from_submit_to_predict(tmp_path: Path) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(DOCS / "example.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    (tmp_path / "slurm").symlink_to(CHECKOUT / "slurm")
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")})
    shown = [
        output["data"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    assert any("data:image/png;base64" in data.get("text/html", "") for data in shown)
    assert "prediction" in shown[-1]["text/html"]


def test_the_notebook_holds_what_it_showed_when_it_ran() -> None:
    notebook = nbformat.read(DOCS / "example.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell.outputs if out["output_type"] == "error"]
