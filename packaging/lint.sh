#!/bin/sh
# Has lintian and rpmlint read the packages in dist/, each where it is installed.
# Fails on any tag that isn't listed, with its reason, in lintian-overrides or
# rpmlint.toml.
set -eu
cd "$(dirname "$0")/.."
failed=0
if command -v lintian >/dev/null 2>&1; then
    out=$(lintian --allow-root --tag-display-limit 0 dist/sidegate_*.deb) || failed=1
    if [ -n "$out" ]; then # an override that nothing needs is no error to lintian
        echo "$out"
        failed=1
    fi
    echo "lintian: done"
else
    echo "lintian isn't installed: the debs weren't read" >&2
fi
if command -v rpmlint >/dev/null 2>&1; then
    for f in dist/sidegate_*.rpm; do
        out=$(rpmlint -c packaging/rpmlint.toml "$f" 2>&1) || failed=1
        if echo "$out" | grep -E ': [EW]: '; then failed=1; fi
    done
    echo "rpmlint: done"
else
    echo "rpmlint isn't installed: the rpms weren't read" >&2
fi
exit $failed
