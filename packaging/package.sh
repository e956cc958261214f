#!/bin/sh
# Leaves deb, rpm, tar.gz, container image and bill of materials for amd64 and arm64,
# and their checksums, in dist/. A release when HEAD is tagged, a snapshot else.
# Nothing is published. The same commit gives the same bytes: packaging/reproduce.sh.
#
#   packaging/package.sh       all
#   packaging/package.sh host  deb and rpm of this machine's architecture, in .cache/dist
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

if [ "${1:-}" = host ]; then
    mkdir -p .cache
    {
        sed "s/goarch: \\[.*\\]/goarch: [$(go env GOARCH)]/" goreleaser.yaml
        echo 'dist: .cache/dist'
    } >.cache/host.yaml
    exec "$goreleaser" release --snapshot --clean --skip=archive --config .cache/host.yaml
fi

tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || true)
if [ -n "$tag" ] && [ -z "$(git status --porcelain)" ]; then
    "$goreleaser" release --clean --skip=publish,announce --config goreleaser.yaml
else
    "$goreleaser" release --snapshot --clean --skip=publish,announce --config goreleaser.yaml
fi

version=$(sed -n 's/.*"version":"\([^"]*\)".*/\1/p' dist/metadata.json)
[ -n "$version" ] || {
    echo "package: no version in dist/metadata.json" >&2
    exit 1
}
for arch in amd64 arm64; do
    binary=$(echo dist/sidegate_linux_"$arch"_*/sidegate)
    size=$(wc -c <"$binary")
    [ "$size" -le $((45 * 1024 * 1024)) ] || {
        echo "package: $binary has $size bytes: 45 MiB is the most" >&2
        exit 1
    }
    go run ./packaging/sbom -version "$version" -time "$(TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)" "$binary" \
        >"dist/sidegate_${version}_linux_$arch.cdx.json"
    packaging/image.sh "$binary" "$arch" "$version" "$PWD/dist/sidegate_${version}_image_$arch.tar"
done
(cd dist && LC_ALL=C && export LC_ALL && sha256sum -- sidegate_*.deb sidegate_*.rpm sidegate_*.tar.gz sidegate_*.cdx.json sidegate_*.tar >SHA256SUMS)
