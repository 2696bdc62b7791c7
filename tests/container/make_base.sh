#!/bin/sh
# A base image from Debian's packages, where no registry of images is reached.
#
#   tests/container/make_base.sh IMAGE      # as root; needs debootstrap and podman
set -eu

image=${1:?the name to give it}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# shellcheck source=/dev/null
. /etc/os-release
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$VERSION_CODENAME" "$folder" >&2
rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* "$folder"/var/log/* \
    "$folder"/usr/share/doc "$folder"/usr/share/man "$folder"/usr/share/locale
tar --create --directory "$folder" . |
    podman import --change "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" - "$image"
