"""`docker/dnnjob.def` gives what `docker/Dockerfile` gives; podman stands in for Apptainer."""

import os
import re
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.container.conftest import BASE, BUILD_LIMIT_S, IMAGE, Podman
from tests.container.definition import read_stages, write_context

DEFINITION = CHECKOUT / "docker" / "dnnjob.def"


def test_every_stage_has_defaults_for_what_it_uses() -> None:
    build, final = read_stages(DEFINITION.read_text(), {})
    assert (build.name, final.name) == ("build", "final")
    assert build.header["from"] == final.header["from"] == "python:3.11-slim-bookworm"
    # Early versions take no empty default.
    assert "=\n" not in build.sections["arguments"] + final.sections["arguments"]
    with pytest.raises(KeyError):
        read_stages("Bootstrap: docker\nFrom: {{ BASE }}\nStage: a\n", {})


@pytest.mark.container
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_both_recipes_give_the_same_files(
    engine: Podman, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def files(image: str) -> str:
        command = "cd /opt/dnnjob && find . -type f -print0 | sort -z | xargs -0 sha256sum"
        return engine("run", "--rm", "--entrypoint", "sh", image, "-c", command).stdout

    def ask(image: str, *words: str) -> str:
        return engine("run", "--rm", "--entrypoint", words[0], image, *words[1:]).stdout

    commit = find_commit(engine)
    given = {"BASE_IMAGE": BASE, "COMMIT": commit}
    for variable, name in {"PIP_CERT": "CA", "PIP_INDEX_URL": "PIP_INDEX_URL"}.items():
        if value := os.environ.get(variable):
            given[name] = value
    write_context(read_stages(DEFINITION.read_text(), given), tmp_path, checkout=CHECKOUT)
    image = "dnnjob-definition:test"
    built = engine("build", "--tag", image, tmp_path, timeout=BUILD_LIMIT_S)
    assert built.returncode == 0, built.stderr
    # Asked for as late as this, the other image may be built by another worker meanwhile.
    request.getfixturevalue("podman")
    try:
        theirs = files(image)
        assert theirs.count("\n") > 10_000
        assert theirs == files(IMAGE)
        assert ask(image, "/opt/dnnjob/bin/dnnjob", "--version") == "dnnjob 0.1.0\n"
        told = ask(image, "cat", "/.build.labels")
        assert f"org.opencontainers.image.revision {commit}" in told
        assert "org.opencontainers.image.version 0.1.0" in told
    finally:
        engine("rmi", "--force", image)


def find_commit(engine: Podman) -> str:
    """What the other image says that it was made of, or will say."""
    labels = engine("image", "inspect", "--format", "{{json .Config.Labels}}", IMAGE).stdout
    told = engine.call("make", "--dry-run", "image", "ENGINE=podman", cwd=CHECKOUT).stdout
    found = re.search(r'image.revision":"([^"]+)', labels) or re.search(r"COMMIT=(\S+)", told)
    assert found is not None
    return found[1]
