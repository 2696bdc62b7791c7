"""`docker/dnnjob.def` gives what `docker/Dockerfile` gives; podman stands in for Apptainer."""

import os
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
def test_both_recipes_give_the_same_files(podman: Podman, tmp_path: Path) -> None:
    def files(image: str) -> str:
        command = "cd /opt/dnnjob && find . -type f -print0 | sort -z | xargs -0 sha256sum"
        return podman("run", "--rm", "--entrypoint", "sh", image, "-c", command).stdout

    def ask(image: str, *words: str) -> str:
        return podman("run", "--rm", "--entrypoint", words[0], image, *words[1:]).stdout

    labels = podman("image", "inspect", "--format", "{{json .Config.Labels}}", IMAGE).stdout
    commit = labels.partition('image.revision":"')[2].partition('"')[0]
    given = {"BASE_IMAGE": BASE, "COMMIT": commit}
    for variable, name in {"PIP_CERT": "CA", "PIP_INDEX_URL": "PIP_INDEX_URL"}.items():
        if value := os.environ.get(variable):
            given[name] = value
    write_context(read_stages(DEFINITION.read_text(), given), tmp_path, checkout=CHECKOUT)
    image = "dnnjob-definition:test"
    built = podman("build", "--tag", image, tmp_path, timeout=BUILD_LIMIT_S)
    assert built.returncode == 0, built.stderr
    try:
        theirs = files(image)
        assert theirs.count("\n") > 10_000
        assert theirs == files(IMAGE)
        assert ask(image, "/opt/dnnjob/bin/dnnjob", "--version") == "dnnjob 0.1.0\n"
        told = ask(image, "cat", "/.build.labels")
        assert f"org.opencontainers.image.revision {commit}" in told
        assert "org.opencontainers.image.version 0.1.0" in told
    finally:
        podman("rmi", "--force", image)
