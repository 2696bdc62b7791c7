#!/usr/bin/env bash
# Renews the hashed lock files from pyproject.toml: requirements/lock.sh (needs uv on the PATH).
set -euo pipefail
cd "$(dirname "$0")"

compile() {  # one version of each package for every supported Python; no index address in the file
    uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
        --no-emit-index-url --no-annotate --custom-compile-command requirements/lock.sh "$@"
}
pins() { grep -E '^[A-Za-z0-9_.-]+==' cpu.txt | grep -v '^tensorflow' | sed 's/ \\$//'; }

compile ../pyproject.toml --extra cpu -o cpu.txt
compile ../pyproject.toml --extra gpu -c <(pins) -o gpu.txt
compile --group ../pyproject.toml:dev -c <(pins) -o dev.txt
