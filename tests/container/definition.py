"""An Apptainer definition read by its rules, and built by podman where Apptainer is missing.

stages = read_stages(text, {"TARGET": "cpu"})
write_context(stages, folder, checkout=CHECKOUT)     # then: podman build FOLDER
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_PLACEHOLDER = re.compile(r"{{\s*(\w+)\s*}}")


@dataclass(frozen=True)
class Stage:
    """A stage of the definition, with its placeholders filled in.

    Attributes:
        header: Its keywords in small letters: `bootstrap`, `from`, `stage`.
        sections: Bodies by their heading: `post`, `files`, `files from build`.
    """

    header: Mapping[str, str]
    sections: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.header["stage"]


def read_stages(text: str, arguments: Mapping[str, str]) -> list[Stage]:
    """The stages of a definition; each knows its own defaults alone.

    Raises:
        KeyError: If a placeholder has neither a value in `arguments` nor a default in its stage.
    """
    starts = [match.start() for match in re.finditer(r"(?mi)^bootstrap:", text)]
    return [
        _read_stage(text[start:end], arguments) for start, end in pairwise([*starts, len(text)])
    ]


def _read_stage(text: str, arguments: Mapping[str, str]) -> Stage:
    given = dict(arguments)
    for line in _lines(_split(text)[1].get("arguments", "")):
        key, _, value = line.partition("=")
        given.setdefault(key.strip(), value.strip())
    # Apptainer refuses a placeholder without a value, but none in a comment.
    filled = re.sub(r"(?m)^\s*#.*$", "", text)
    filled = _PLACEHOLDER.sub(lambda match: given[match[1]], filled)
    header, sections = _split(filled)
    words = (line.partition(":") for line in _lines(header))
    return Stage({key.lower(): value.strip() for key, _, value in words}, sections)


def _split(text: str) -> tuple[str, dict[str, str]]:
    header, *parts = re.split(r"(?m)^%", text)
    found = (part.partition("\n") for part in parts)
    return header, {heading.strip(): body for heading, _, body in found}


def _lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())


def write_context(stages: list[Stage], folder: Path, *, checkout: Path) -> None:
    """Writes what podman needs to build the stages: a Dockerfile, files, scripts."""
    lines: list[str] = []
    for stage in stages:
        root = folder / f"{stage.name}.root"
        root.mkdir()
        _run_setup(stage, root, checkout=checkout)
        _copy_files(stage, root, checkout=checkout)
        (root / ".post").write_text(stage.sections["post"])
        lines += [f"FROM {stage.header['from']} AS {stage.name}", f"COPY {root.name}/ /"]
        for heading, body in stage.sections.items():
            if heading.startswith("files from "):
                copied = f"COPY --from={heading.removeprefix('files from ')}"
                lines += [f"{copied} {line}" for line in _lines(body)]
        # With nothing of the host's environment.
        clean = "env -i PATH=$PATH APPTAINER_LABELS=/.build.labels"
        lines.append(f"RUN cd / && {clean} /bin/sh -ex /.post")
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")


def _run_setup(stage: Stage, root: Path, *, checkout: Path) -> None:
    subprocess.run(
        ["/bin/sh", "-ex", "-c", stage.sections.get("setup", ":")],
        check=True,
        capture_output=True,
        cwd=checkout,
        env={**os.environ, "APPTAINER_ROOTFS": str(root)},
    )


def _copy_files(stage: Stage, root: Path, *, checkout: Path) -> None:
    for line in _lines(stage.sections.get("files", "")):
        source, target = line.split()
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if (checkout / source).is_dir():
            shutil.copytree(checkout / source, place)
        else:
            shutil.copy(checkout / source, place)
