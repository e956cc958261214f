#!/bin/sh
# Makes what the packages hold in compressed form. goreleaser runs it before it
# builds. Without names and times in them (-n), the files are the same each time.
set -eu
cd "$(dirname "$0")/.."
out=.cache/packaging
mkdir -p "$out"
gzip -9nc packaging/sidegate.8 >"$out/sidegate.8.gz"
gzip -9nc CHANGELOG.md >"$out/CHANGELOG.md.gz"
