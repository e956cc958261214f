#!/bin/sh
# Builds the packages of HEAD twice, in two folders, with other umasks, time zones,
# languages and names of the folder, and compares every file. Exits with 1 and names
# the files when any differs.
set -eu
cd "$(dirname "$0")/.."
source=$PWD
commit=$(git rev-parse HEAD)
tools=${SIDEGATE_TOOLS:-$PWD/.cache/tools}
work=$(mktemp -d "${TMPDIR:-/tmp}/sidegate-reproduce.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT

one() { # FOLDER UMASK TZ LANG
    echo "reproduce: building in $1" >&2
    (
        umask "$2" # the clone's files have it, too
        git clone --quiet --no-local "$source" "$work/$1"
        cd "$work/$1"
        git checkout --quiet --detach "$commit"
        SIDEGATE_TOOLS=$tools TZ=$3 LC_ALL=$4 make --silent package >"$work/log" 2>&1
    ) || {
        tail -n 30 "$work/log" >&2
        exit 1
    }
}
one first 022 UTC C
one the-second/time 077 Asia/Tokyo C.UTF-8

failed=0 same=0
for f in "$work"/first/dist/sidegate_*.* "$work"/first/dist/SHA256SUMS; do
    [ -f "$f" ] || continue
    name=${f##*/}
    if cmp "$f" "$work/the-second/time/dist/$name"; then
        same=$((same + 1))
    else
        failed=$((failed + 1))
    fi
done
(cd "$work/first/dist" && sha256sum --quiet --check SHA256SUMS)
echo "same=$same different=$failed"
[ "$failed" = 0 ] && [ "$same" -ge 11 ]
