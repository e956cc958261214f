#!/bin/bash
# Runs a guide of packaging/doc as it stands, as cmd/sidegate/e2e/guides_test.go does
# others: a block "hcl PATH" or "ini PATH" is written there; each line of "sh" has to
# succeed, or to fail after !, and those that only look are run again until what they
# say has the lines of the block "text" behind.
#   guide.sh FILE
set -u
out=/run/guide.out

attempt() { # LINE: once
    case "$1" in
    '! '*) ! bash -c "${1#! }" ;;
    *) bash -c "$1" ;;
    esac
}
patient() { # LINE: until it succeeds, when it only looks
    local end=$((SECONDS + 20))
    until attempt "$1" >"$out" 2>&1; do
        case "$1" in
        curl* | ss* | 'systemctl show'* | 'systemctl is-active'* | 'sidegate status'*) [ $SECONDS -lt $end ] || return 1 ;;
        *) return 1 ;;
        esac
        sleep 0.2
    done
}
has() { # LINES: whether the last output has them all
    local line
    while IFS= read -r line; do grep -qF -- "$line" "$out" || return 1; done <<<"$1"
}

kind='' path='' text='' last=''
while IFS= read -r line || [ -n "$line" ]; do
    if [[ "$line" != '```'* ]]; then
        if [ "$kind" = sh ]; then
            last=$line
            patient "$line" || { echo "$1: $line: failed:"; cat "$out"; exit 1; }
        elif [ -n "$kind" ]; then
            text+=$line$'\n'
        fi
        continue
    fi
    if [ -z "$kind" ]; then
        read -r kind path <<<"${line#'```'}"
        text=''
        continue
    fi
    case "$kind" in
    hcl | ini) [ -z "$path" ] || { mkdir -p "$(dirname "$path")" && printf %s "$text" >"$path"; } ;;
    text)
        end=$((SECONDS + 20))
        until has "${text%$'\n'}"; do
            [ $SECONDS -lt $end ] && patient "$last" || { echo "$1: $last: says"; cat "$out"; echo "and not"; printf %s "$text"; exit 1; }
            sleep 0.2
        done
        ;;
    esac
    kind=''
done <"$1"
