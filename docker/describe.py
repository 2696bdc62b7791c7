#!/usr/bin/env python3
"""What an image holds, as JSON: docker/describe.py TARGET, in the environment that it describes."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata


def debian_packages() -> dict[str, str]:
    """Debian's packages of the base image, with their versions; none on another base."""
    command = ["dpkg-query", "--show", "--showformat", "${Package}\t${Version}\n"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(line.split("\t") for line in listed.splitlines())


def describe(target: str) -> dict[str, object]:
    """Target, version, commit, base, and every package with its version, in order."""
    python = {one.metadata["Name"]: one.version for one in metadata.distributions()}
    python["dnnjob"] = os.environ["VERSION"]
    return {
        "target": target,
        "version": os.environ["VERSION"],
        "commit": os.environ.get("COMMIT") or None,
        "base": os.environ.get("BASE_IMAGE") or None,
        "python": platform.python_version(),
        "packages": dict(sorted(python.items(), key=lambda item: item[0].lower())),
        "system": debian_packages(),
    }


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1]), indent=1))
