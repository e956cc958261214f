#!/bin/sh
# Leaves deb, rpm and tar.gz for amd64 and arm64, and their checksums, in dist/.
# A release when HEAD is tagged, a snapshot else. Nothing is published.
set -eu
cd "$(dirname "$0")/.."

# goreleaser: in SIDEGATE_TOOLS, on PATH, in .cache/tools, or built there (about
# seven minutes of CPU).
goreleaser=
for candidate in "${SIDEGATE_TOOLS:-.cache/tools}/goreleaser" "$(command -v goreleaser || true)" .cache/tools/goreleaser; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then
        goreleaser=$candidate
        break
    fi
done
if [ -z "$goreleaser" ]; then
    echo "package: building goreleaser, once" >&2
    mkdir -p .cache/tools
    goreleaser=$PWD/.cache/tools/goreleaser
    (cd .ci/tools/release && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$goreleaser" github.com/goreleaser/goreleaser/v2)
fi

tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || true)
if [ -n "$tag" ] && [ -z "$(git status --porcelain)" ]; then
    "$goreleaser" release --clean --skip=publish,announce --config goreleaser.yaml
else
    "$goreleaser" release --snapshot --clean --skip=publish,announce --config goreleaser.yaml
fi
