#!/bin/sh
# Makes the container image of one binary, FROM scratch, without network, a
# container engine or root: an archive for docker load and podman load.
#
#   packaging/image.sh BINARY ARCH VERSION OUT.tar
#
# The folder .cache/image/ARCH is left for docker build. The image's times are the
# commit's, its CA certificates this machine's: these and the binary give the same
# bytes each time.
set -eu
cd "$(dirname "$0")/.."
binary=$1 arch=$2 version=$3 out=$4

certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
[ -s "$certificates" ] || {
    echo "image: no CA certificates in $certificates (apt-get install ca-certificates, or set SSL_CERT_FILE)" >&2
    exit 1
}

context=$PWD/.cache/image/$arch
rm -rf "$context"
install -d -m 0755 "$context" "$context/root" "$context/root/etc" "$context/root/etc/sidegate" \
    "$context/root/etc/ssl" "$context/root/etc/ssl/certs" "$context/root/usr" "$context/root/usr/bin" \
    "$context/root/var" "$context/root/var/lib" "$context/state"
install -d -m 1777 "$context/root/tmp"
install -d -m 0700 "$context/state/sidegate"
install -m 0755 "$binary" "$context/root/usr/bin/sidegate"
install -m 0644 "$certificates" "$context/root/etc/ssl/certs/ca-certificates.crt"
install -m 0644 packaging/sidegate.hcl "$context/root/etc/sidegate/sidegate.hcl"
install -m 0644 packaging/docker/passwd packaging/docker/group "$context/root/etc"
install -m 0644 packaging/docker/Dockerfile "$context"

go run ./packaging/image -arch "$arch" -version "$version" -time "$(git log -1 --format=%ct)" -o "$out" "$context"
