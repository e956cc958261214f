#!/bin/sh
# Makes what the packages hold beside the binary: manual pages and completions,
# both from the commands, and what is in compressed form. goreleaser runs it before
# it builds. Without names and times in them (-n), the files are the same each time.
set -eu
cd "$(dirname "$0")/.."
out=$PWD/.cache/packaging
rm -rf "$out"
mkdir -p "$out/man" "$out/completions"

SIDEGATE_MAN="$out/man" go test -count=1 -run '^TestManual$' ./cmd/sidegate >&2
gzip -9n "$out"/man/*.8

go build -o "$out/sidegate" ./cmd/sidegate
for shell in bash zsh fish; do
    "$out/sidegate" completion "$shell" >"$out/completions/$shell"
done
rm "$out/sidegate"

gzip -9nc CHANGELOG.md >"$out/CHANGELOG.md.gz"
