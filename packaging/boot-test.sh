#!/bin/bash
# Boots Debian 12 with systemd in a container of its own, installs a deb of
# sidegate there as a user would, and checks its life: installed, enabled,
# answering, reloaded, killed, hung, restarted and upgraded under load, purged; and
# sidecars of two services, with a real Consul agent. Then the rpm beside it, if there
# is one: its files and scripts, by Debian's rpm.
#
#   packaging/boot-test.sh [sidegate_VERSION_amd64.deb]
#
# Without a deb it builds one of what is here. Needs root, systemd-nspawn
# (systemd-container) and mmdebstrap. The base is made once, in .cache/boot. One line
# for each check; then passed=N failed=N. Exits with 1 when a check failed, with 2
# when this machine can't run it.
#
# shellcheck disable=SC2016 # most of these commands expand in the container
set -u
cd "$(dirname "$0")/.." || exit 2

can_not() {
    echo "boot-test: can't run here: $*" >&2
    exit 2
}

[ "$(id -u)" = 0 ] || can_not "not root"
for tool in systemd-nspawn mmdebstrap nsenter dpkg-deb; do
    command -v "$tool" >/dev/null || can_not "$tool is missing (apt-get install systemd-container mmdebstrap)"
done

base=.cache/boot/base-2.tar
sources=/etc/apt/sources.list.d/debian.sources
[ -e "$sources" ] || sources=/etc/apt/sources.list
if [ ! -e "$base" ]; then
    echo "boot-test: making the Debian base, once" >&2
    mkdir -p .cache/boot
    mmdebstrap --quiet --mode=root --format=tar --variant=minbase \
        --include=systemd,systemd-sysv,dbus,curl,ca-certificates,iproute2,procps,rpm \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$base.new" "$sources" || can_not "mmdebstrap failed"
    mv "$base.new" "$base"
fi

deb=${1:-}
if [ -z "$deb" ]; then
    mkdir -p .cache
    echo "boot-test: building the package" >&2
    packaging/package.sh host >.cache/package.log 2>&1 || {
        tail -n 30 .cache/package.log >&2
        echo "boot-test: packaging/package.sh failed" >&2
        exit 1
    }
    for f in .cache/dist/sidegate_*.deb; do deb=$f; done
fi
[ -e "$deb" ] || {
    echo "boot-test: no $deb" >&2
    exit 1
}
deb=$(realpath "$deb")
consul=$(.ci/tool consul 2>/dev/null) || consul=

work=$(mktemp -d "${TMPDIR:-/tmp}/sidegate-boot.XXXXXX") || can_not "no temporary folder"
root=$work/root
name=sidegate-boot-$$
nspawn=
cgroups=()
init=

# Ends the container and takes away what this script made, no more.
tidy() {
    if [ -n "$init" ]; then
        kill -s RTMIN+4 "$init" 2>/dev/null # systemd's poweroff
        for _ in $(seq 100); do
            kill -0 "$nspawn" 2>/dev/null || break
            sleep 0.1
        done
    fi
    if [ -n "$nspawn" ]; then
        kill -KILL "$nspawn" 2>/dev/null
        wait "$nspawn" 2>/dev/null
    fi
    for c in "${cgroups[@]}"; do
        find "$c" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    rm -rf --one-file-system "$work"
}
trap tidy EXIT
trap 'exit 2' INT TERM

mkdir "$root"
tar -C "$root" -xf "$base" || can_not "the base can't be unpacked"
echo boot-test >"$root/etc/hostname"
echo 127.0.0.1 localhost boot-test >"$root/etc/hosts"
mkdir -p "$root/root/pkg"
cp "$deb" "$root/root/pkg/sidegate.deb"
rpm=${deb%.deb}.rpm
[ ! -e "$rpm" ] || cp "$rpm" "$root/root/pkg/sidegate.rpm"
# The same package as a later version with another default configuration, for the
# upgrades.
if ! {
    dpkg-deb -R "$deb" "$work/next" &&
        sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control" &&
        echo '# the next version' >>"$work/next/etc/sidegate/sidegate.hcl" &&
        dpkg-deb --root-owner-group -b "$work/next" "$root/root/pkg/next.deb" >/dev/null
}; then
    can_not "the deb can't be built again"
fi
rm -rf "$work/next"
cp packaging/boot/* "$root/root/"

# Where systemd doesn't run the host, the container gets a cgroup of its own.
boot=(systemd-nspawn --quiet --directory="$root" --machine="$name" --boot
    --private-network --console=pipe --link-journal=no)
if [ -n "$consul" ]; then
    boot+=(--bind-ro="$(realpath "$consul"):/usr/local/bin/consul")
    touch "$root/usr/local/bin/consul" # before what was there is listed
fi
if [ ! -d /run/systemd/system ]; then
    boot+=(--register=no --keep-unit)
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
    for c in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
        if [ -e "$c/cgroup.procs" ] && mkdir "$c/$name" 2>/dev/null; then
            cgroups+=("$c/$name")
        fi
    done
fi
(
    for c in "${cgroups[@]}"; do echo "$BASHPID" >"$c/cgroup.procs"; done
    exec "${boot[@]}" </dev/null >"$work/console" 2>&1
) &
nspawn=$!

# PID 1 of the container: the child of nspawn in another PID namespace.
find_init() {
    local p
    local children
    children=$(cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null)
    for p in $children; do
        if [ "$(readlink "/proc/$p/ns/pid")" != "$(readlink /proc/self/ns/pid)" ]; then
            init=$p
            return 0
        fi
    done
    return 1
}
within() { # SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
inside() {
    nsenter -t "$init" -m -u -i -n -p -C -- \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}
sh_in() { inside /bin/sh -c "$1"; }

within 60 find_init || { cat "$work/console" >&2; can_not "systemd-nspawn started no init"; }
booted() { [[ "$(inside systemctl is-system-running 2>/dev/null)" =~ ^(running|degraded)$ ]]; }
within 120 booted || { tail -n 40 "$work/console" >&2; can_not "the container didn't boot"; }
sh_in 'ip link set lo up'

passed=0 failed=0
check() { # WHAT SHELL-COMMAND: in the container
    local out
    if out=$(sh_in "$2" 2>&1); then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "FAILED  $1"
        printf '%s\n' "$out" | tail -n 15 | sed 's/^/        /'
        sh_in "journalctl -u 'sidegate*' -o cat --no-pager -n 200" 2>&1 | grep -v '^{"client_ip' | tail -n 12 | cut -c1-300 | sed 's/^/        | /'
    fi
}
eventually() { # SECONDS SHELL-COMMAND, as a shell command
    echo "end=\$((\$(date +%s) + $1)); until { $2; } >/dev/null 2>&1; do [ \$(date +%s) -lt \$end ] || { $2; exit 1; }; sleep 0.1; done"
}
pid='$(systemctl show -P MainPID sidegate)'
# What a purge has to leave as it was. Left out: what dpkg and systemd write, and the
# user, which stays, as files elsewhere may be its own.
files='find /etc /usr /var /opt /srv -xdev \( -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/log/journal -o -path /var/cache -o -path /var/tmp \) -prune -o -print |
    grep -Ev "^/(etc/(passwd|group|shadow|gshadow|subuid|subgid|\.pwd\.lock)-?|var/log/dpkg\.log)$" | sort'

sh_in "$files >/root/before"
check "installs" 'dpkg -i /root/pkg/sidegate.deb'
check "isn't started by the installation" '! systemctl is-active --quiet sidegate && ! systemctl is-enabled --quiet sidegate'
check "has made its user, without a login" 'getent passwd sidegate | grep -q :/usr/sbin/nologin$'
check "has the configuration as a conffile" 'dpkg-query -W -f "\${Conffiles}" sidegate | grep -q " /etc/sidegate/sidegate.hcl "'
check "accepts its own configuration" 'sidegate validate'
check "its pages, completions, schema and guides are there" '
    zcat /usr/share/man/man8/sidegate-doctor.8.gz | grep -q "^.SH OPTIONS" &&
        grep -q __complete /usr/share/bash-completion/completions/sidegate &&
        grep -q json-schema.org /usr/share/doc/sidegate/schema.json && test -s /usr/share/doc/sidegate/edge.md'
check "init replaces nothing by itself" '! sidegate init -service a=127.0.0.1:8080 && sidegate init -force -service a=127.0.0.1:8080 && mv /etc/sidegate/sidegate.hcl.old /etc/sidegate/sidegate.hcl'
check "doctor finds nothing that fails" 'sidegate doctor'
check "the units are without faults" 'out=$(systemd-analyze verify --man=no sidegate.service sidegate@orders.service sidegate.socket 2>&1); echo "$out"; test -z "$out"'
check "the exposure of the services is 1.5 at most" 'systemd-analyze security --no-pager --threshold=15 sidegate.service | tail -n 1 && systemd-analyze security --no-pager --threshold=15 sidegate@orders.service | tail -n 1'
check "enable --now starts it" 'systemctl enable --now sidegate || { journalctl -u sidegate --no-pager | tail; exit 1; }'
check "is active and enabled" 'systemctl is-active sidegate && systemctl is-enabled sidegate'
check "answers on 443 (TLS, 404 without routes)" "$(eventually 30 'test "$(curl -sk -o /dev/null -w %{http_code} https://localhost/)" = 404')"
check "answers HTTP/2 on 443" 'test "$(curl -sk --http2 -o /dev/null -w %{http_version} https://localhost/)" = 2'
check "listens for HTTP/3 on UDP 443" 'ss -Hlun "sport = :443" | grep -q .'
check "redirects from 80 to https" 'curl -s -o /dev/null -w "%{http_code} %{redirect_url}" http://localhost/x?y | grep -qx "308 https://localhost/x?y"'
check "has a whole backlog" 'ss -Hltn "sport = :443" | awk "{ exit !(\$3 >= 4096) }"'
check "doctor sees the gateway, and its user" 'out=$(sidegate doctor); echo "$out"; echo "$out" | grep -q "443/tcp is served by the running gateway" && echo "$out" | grep -q "is the user sidegate.s"'
check "admin answers on loopback" 'curl -sf http://127.0.0.1:9901/readyz'
check "runs as sidegate, not root" "test \"\$(ps -o user= -p $pid)\" = sidegate"
check "has CAP_NET_BIND_SERVICE and nothing else" "grep -q '^CapEff:.0000000000000400\$' /proc/$pid/status && grep -q '^CapBnd:.0000000000000400\$' /proc/$pid/status"
check "its state folder is its own, 0700" 'test "$(stat -c "%U %a" /var/lib/sidegate)" = "sidegate 700"'
check "reload keeps the process and takes the new configuration" "
    before=$pid
    printf 'route \"hello\" {\n  hosts = [\"localhost\"]\n  respond {\n    status = 200\n    body   = \"hello\"\n  }\n}\n' >/etc/sidegate/hello.hcl
    systemctl reload sidegate || exit 1
    $(eventually 20 'test "$(curl -sk https://localhost/)" = hello')
    test \"\$before\" = \"$pid\""
check "reload of a broken file fails, and the old one serves on" '
    echo "rout" >/etc/sidegate/broken.hcl
    if systemctl reload sidegate; then exit 1; fi
    rm /etc/sidegate/broken.hcl
    systemctl is-active sidegate && test "$(curl -sk https://localhost/)" = hello'
check "is started again after kill -9" "
    before=$pid
    kill -9 \$before
    $(eventually 30 'systemctl is-active --quiet sidegate && test "$(curl -sk https://localhost/)" = hello')
    test \"\$before\" != \"$pid\" && test \"\$(systemctl show -P NRestarts sidegate)\" -ge 1"
check "systemd watches it" 'test "$(systemctl show -P WatchdogUSec sidegate)" = 30s && test "$(systemctl show -P FileDescriptorStoreMax sidegate)" -gt 0'
check "one that hangs is killed by the watchdog, and started again" "
    mkdir -p /run/systemd/system/sidegate.service.d
    printf '[Service]\nWatchdogSec=3\n' >/run/systemd/system/sidegate.service.d/test.conf
    systemctl daemon-reload && systemctl restart sidegate || exit 1
    $(eventually 30 'test "$(curl -sk https://localhost/)" = hello')
    before=$pid restarts=\$(systemctl show -P NRestarts sidegate)
    : five seconds, in which nothing happens to one that answers itself
    end=\$((\$(date +%s) + 5)); while [ \$(date +%s) -lt \$end ]; do test \"\$before\" = \"$pid\" || exit 1; sleep 0.2; done
    kill -STOP \$before
    $(eventually 30 'journalctl -u sidegate --no-pager | grep -q "Watchdog timeout"')
    $(eventually 30 'systemctl is-active --quiet sidegate && test "$(curl -sk --max-time 2 https://localhost/)" = hello')
    test \"\$before\" != \"$pid\" && test \"\$(systemctl show -P NRestarts sidegate)\" -gt \"\$restarts\" || exit 1
    rm /run/systemd/system/sidegate.service.d/test.conf
    systemctl daemon-reload && systemctl restart sidegate"
check "its own requests to itself are in no count and no log" '
    if journalctl -u sidegate -o cat --no-pager | grep "\"status\":204"; then exit 1; fi'
check "a restart under load loses no request" "
    $(eventually 30 'test "$(curl -sk https://localhost/)" = hello')
    /root/load.sh start
    for i in 1 2 3; do before=$pid; systemctl restart sidegate || exit 1; test \"\$before\" != \"$pid\" || exit 1; done
    /root/load.sh stop"
check "credentials are there for the configuration" "
    echo 'from a credential' >/root/greeting
    printf '[Service]\nLoadCredential=greeting:/root/greeting\n' >/run/systemd/system/sidegate.service.d/test.conf
    systemctl daemon-reload
    printf 'route \"credential\" {\n  hosts = [\"localhost\"]\n  paths = [\"/credential\"]\n  respond {\n    status = 200\n    body   = credential(\"greeting\")\n  }\n}\n' >/etc/sidegate/credential.hcl
    systemctl restart sidegate || exit 1
    $(eventually 30 'test "$(curl -sk https://localhost/credential)" = "from a credential"')
    systemctl reload sidegate"
check "an upgrade under load takes the package's configuration where it wasn't edited, and keeps the state, and loses no request" "
    before=$pid
    sha256sum /var/lib/sidegate/ca/root.pem >/root/ca || exit 1
    /root/load.sh start
    dpkg -i /root/pkg/next.deb || exit 1
    /root/load.sh stop || exit 1
    tail -n 1 /etc/sidegate/sidegate.hcl | grep -qx '# the next version' || exit 1
    test \"\$before\" != \"$pid\" && systemctl is-active sidegate && systemctl is-enabled sidegate && sha256sum -c /root/ca || exit 1
    test \"\$(curl -sk https://localhost/credential)\" = 'from a credential' || exit 1
    $(eventually 45 '! kill -0 $before')
    systemctl is-active sidegate"
check "a downgrade does the same backwards" "
    before=$pid
    rm /etc/sidegate/credential.hcl
    dpkg -i /root/pkg/sidegate.deb || exit 1
    if grep '# the next version' /etc/sidegate/sidegate.hcl; then exit 1; fi
    $(eventually 30 'systemctl is-active --quiet sidegate && test "$(curl -sk https://localhost/)" = hello')
    test \"\$before\" != \"$pid\" && systemctl is-enabled sidegate && sha256sum -c /root/ca"
check "an upgrade keeps an edited configuration, with the new one beside it" "
    before=$pid
    echo '# edited' >>/etc/sidegate/sidegate.hcl
    echo 'SIDEGATE_EDITED=1' >>/etc/default/sidegate
    dpkg -i --force-confold /root/pkg/next.deb || exit 1
    grep -q '^# edited' /etc/sidegate/sidegate.hcl && grep -q EDITED /etc/default/sidegate && test -e /etc/sidegate/sidegate.hcl.dpkg-dist || exit 1
    $(eventually 30 'systemctl is-active --quiet sidegate && test "$(curl -sk https://localhost/)" = hello')
    test \"\$before\" != \"$pid\" && systemctl is-enabled sidegate"
check "a downgrade keeps an edited configuration" "
    dpkg -i --force-confold /root/pkg/sidegate.deb && grep -q '^# edited' /etc/sidegate/sidegate.hcl || exit 1
    $(eventually 30 'systemctl is-active --quiet sidegate && test "$(curl -sk https://localhost/)" = hello')"
check "an upgrade that refuses the configuration leaves the old process" "
    before=$pid
    echo rout >/etc/sidegate/broken.hcl
    dpkg -i --force-confold /root/pkg/next.deb >/root/out 2>&1 || exit 1
    rm /etc/sidegate/broken.hcl
    grep -q 'broken.hcl:1' /root/out && grep -q 'goes on running' /root/out && dpkg -s sidegate | grep -q '^Status: install ok installed' || { cat /root/out; exit 1; }
    test \"\$before\" = \"$pid\" && test \"\$(curl -sk https://localhost/)\" = hello"
check "stops within its time, cleanly" 'systemctl stop sidegate && test "$(systemctl show -P Result sidegate)" = success'
check "a broken configuration fails the start and says where" '
    echo rout >/etc/sidegate/broken.hcl
    if systemctl start sidegate; then exit 1; fi
    rm /etc/sidegate/broken.hcl
    journalctl -u sidegate --no-pager | grep -q broken.hcl:1'
check "starts again once it is mended" 'systemctl reset-failed sidegate; systemctl start sidegate'
check "sockets of sidegate.socket start it, by TCP" "
    systemctl stop sidegate && systemctl enable --now sidegate.socket && ! systemctl is-active --quiet sidegate || exit 1
    ss -Hltn 'sport = :443' | grep -q . && ss -Hlun 'sport = :443' | grep -q . && ss -Hltn 'sport = :80' | grep -q . || exit 1
    test \"\$(curl -sk --max-time 30 https://localhost/)\" = hello || exit 1
    for s in 'ltnp sport = :443' 'lunp sport = :443' 'ltnp sport = :80'; do ss -H\$s | grep -q '\"sidegate\"' || exit 1; done
    test \"\$(ss -Hltn 'sport = :443' | wc -l) \$(ss -Hlun 'sport = :443' | wc -l)\" = '1 1'"
check "with them, a restart under load loses no request" "
    /root/load.sh start
    systemctl restart sidegate || exit 1
    /root/load.sh stop"
check "and by UDP" "
    systemctl stop sidegate 2>/dev/null
    test \"\$(systemctl is-active sidegate)\" = inactive || exit 1
    bash -c 'echo x >/dev/udp/127.0.0.1/443'
    $(eventually 20 'systemctl is-active --quiet sidegate')
    systemctl disable --now sidegate.socket; systemctl restart sidegate
    $(eventually 20 'test "$(curl -sk https://localhost/)" = hello')"
if [ -n "$consul" ]; then
    registered='curl -sf "http://127.0.0.1:8500/v1/health/service/$name?passing" | grep -q "\"Service\":\"$name\""'
    check "an agent of Consul, and two services" "
        systemd-run --quiet --unit=consul /usr/local/bin/consul agent -config-file=/root/consul.hcl
        cp /usr/bin/sidegate /run/app
        for s in orders:8081 billing:8082; do
            name=\${s%:*} port=\${s#*:}
            printf 'state_dir = \"/run/%s\"\nadmin {\n  address = \"127.0.0.1:1%s\"\n}\nlistener \"l\" {\n  address = \"127.0.0.1:%s\"\n  tls     = false\n}\nroute \"all\" {\n  respond {\n    status = 200\n    body   = \"%s\"\n  }\n}\n' \$name \$port \$port \$name >/run/\$name.hcl
            systemd-run --quiet --unit=\$name /run/app run -config /run/\$name.hcl
        done
        $(eventually 30 'curl -sf http://127.0.0.1:8500/v1/status/leader | grep -q :')
        $(eventually 30 'test "$(curl -s http://127.0.0.1:8081)$(curl -s http://127.0.0.1:8082)" = ordersbilling')"
    check "sidecars of both start, and register them" "
        cp /root/a.hcl /root/b.hcl /etc/sidegate/sidecars/
        echo CONSUL_HTTP_ADDR=127.0.0.1:8500 >/etc/sidegate/sidecars/a.env
        systemctl enable --now sidegate@a sidegate@b || { journalctl -u 'sidegate@*' --no-pager | tail; exit 1; }
        for name in orders billing; do $(eventually 20 "$registered"); done"
    check "each service calls the other by its sidecar" "
        $(eventually 20 'test "$(curl -s http://127.0.0.1:9191/)" = billing')
        $(eventually 20 'test "$(curl -s --unix-socket /run/sidegate/b/orders.sock http://orders/)" = orders')"
    check "a sidecar has no capability, and sees no other's state" '
        p=$(systemctl show -P MainPID sidegate@a)
        grep -q "^CapEff:.0000000000000000\$" /proc/$p/status && grep -q "^CapBnd:.0000000000000000\$" /proc/$p/status || exit 1
        test "$(nsenter -t $p -m ls /var/lib/sidegate /var/lib/sidegate/sidecars | tr "\n" " ")" = "/var/lib/sidegate: sidecars  /var/lib/sidegate/sidecars: a " &&
            test "$(stat -c "%U %a" /var/lib/sidegate/sidecars/a)" = "sidegate 700"'
    check "the gateway doesn't see theirs" 'p='"$pid"'; ! nsenter -t $p -m -S "$(id -u sidegate)" ls /var/lib/sidegate/sidecars'
    check "status, doctor and validate speak of a sidecar" 'sidegate status -config /etc/sidegate/sidecars/a.hcl && sidegate validate -config /etc/sidegate/sidecars/a.hcl'
    check "the exposure of a running sidecar is 1.5 at most" 'systemd-analyze security --no-pager --threshold=15 sidegate@a.service | tail -n 1'
    check "a sidecar takes a new configuration by reload" "
        p=\$(systemctl show -P MainPID sidegate@a)
        sed -i 's/tags *=.*/tags = [\"v2\"]/' /etc/sidegate/sidecars/a.hcl
        systemctl reload sidegate@a || exit 1
        $(eventually 20 'curl -sf "http://127.0.0.1:8500/v1/catalog/service/orders" | grep -q "\"v2\""')
        test \"\$(systemctl show -P MainPID sidegate@a)\" = \"\$p\" || exit 1
        echo sidecarr >/etc/sidegate/sidecars/b.hcl
        if systemctl reload sidegate@b; then exit 1; fi
        cp /root/b.hcl /etc/sidegate/sidecars/ && systemctl reload sidegate@b"
    check "a sidecar that crashed is back, and registered once" "
        p=\$(systemctl show -P MainPID sidegate@b)
        kill -9 \$p
        $(eventually 30 'test "$(systemctl show -P MainPID sidegate@b)" != $p && systemctl is-active --quiet sidegate@b')
        name=billing; $(eventually 20 "$registered")
        test \"\$(curl -sf http://127.0.0.1:8500/v1/catalog/service/billing | grep -o '\"ServiceID\"' | wc -l)\" = 1 || exit 1
        $(eventually 20 'test "$(curl -s http://127.0.0.1:9191/)" = billing')"
    check "an upgrade takes over from sidecars, too, and loses no call" "
        a=\$(systemctl show -P MainPID sidegate@a) b=\$(systemctl show -P MainPID sidegate@b)
        URL=http://127.0.0.1:9191/ /root/load.sh start
        dpkg -i --force-confold /root/pkg/next.deb || exit 1
        dpkg -i --force-confold /root/pkg/sidegate.deb || exit 1
        /root/load.sh stop || exit 1
        test \"\$a\" != \"\$(systemctl show -P MainPID sidegate@a)\" && test \"\$b\" != \"\$(systemctl show -P MainPID sidegate@b)\" || exit 1
        for name in orders billing; do $registered || exit 1; done"
    check "a sidecar that is stopped has left Consul" "
        systemctl stop sidegate@b && test \"\$(systemctl show -P Result sidegate@b)\" = success || exit 1
        test \"\$(curl -sf http://127.0.0.1:8500/v1/catalog/service/billing)\" = '[]' || exit 1
        systemctl start sidegate@b
        name=billing; $(eventually 20 "$registered")"
else
    echo "skipped the sidecars: consul isn't installed (make tools)"
fi
check "an upgrade starts nothing that was stopped, and enables nothing that was disabled" '
    systemctl disable --now sidegate && dpkg -i --force-confold /root/pkg/sidegate.deb || exit 1
    if systemctl is-active sidegate || systemctl is-enabled sidegate; then exit 1; fi
    systemctl enable --now sidegate'
check "removal stops it, and all sidecars" '
    dpkg -r sidegate && ! systemctl is-active --quiet sidegate && ! systemctl is-enabled --quiet sidegate && ! pgrep -x sidegate || exit 1
    if ls /etc/systemd/system/*.wants/sidegate* || systemctl list-units --plain --no-legend --full --state=active "sidegate*" | grep .; then exit 1; fi
    test -e /etc/sidegate/sidecars || ! test -e /usr/local/bin/consul || exit 1
    systemctl stop consul orders billing 2>/dev/null; true'
check "removal keeps configuration and state, and nothing else" '
    '"$files"' >/root/removed
    left=$(comm -13 /root/before /root/removed | grep -Ev "^/(etc|var/lib|var/log)/sidegate(/|$)"); echo "$left"
    test "$left" = "$(printf "/etc/default/sidegate\n/etc/logrotate.d/sidegate")" && grep -q "^# edited" /etc/sidegate/sidegate.hcl && sha256sum -c /root/ca'
check "installing it again finds both, and starts nothing" "
    dpkg -i --force-confold /root/pkg/sidegate.deb && grep -q '^# edited' /etc/sidegate/sidegate.hcl && sha256sum -c /root/ca || exit 1
    if systemctl is-active sidegate || systemctl is-enabled sidegate; then exit 1; fi
    systemctl enable --now sidegate || exit 1
    $(eventually 30 'test "$(curl -sk https://localhost/)" = hello')"
check "purge stops it, and removes configuration, state and logs" 'dpkg -P sidegate && test ! -e /etc/sidegate && test ! -e /var/lib/sidegate && test ! -e /var/log/sidegate && ! pgrep -x sidegate'
check "purge leaves no file behind, and takes none of others" "$files >/root/after"'
    diff /root/before /root/after'
if [ -e "$rpm" ]; then
    # The same version once more stands for another: to the scripts it is an upgrade.
    check "rpm: installs, is as it was packed, and isn't started" '
        rpm -i --nodeps /root/pkg/sidegate.rpm && rpm -V --nodeps sidegate && ! systemctl is-active --quiet sidegate && ! systemctl is-enabled --quiet sidegate'
    check "rpm: enable --now starts it" "systemctl enable --now sidegate || exit 1
        $(eventually 30 'test "$(curl -sk -o /dev/null -w %{http_code} https://localhost/)" = 404')"
    check "rpm: an upgrade keeps an edited configuration and restarts" "
        before=$pid
        echo '# edited' >>/etc/sidegate/sidegate.hcl
        rpm -U --force --nodeps /root/pkg/sidegate.rpm || exit 1
        grep -q '^# edited' /etc/sidegate/sidegate.hcl || exit 1
        $(eventually 30 'systemctl is-active --quiet sidegate && curl -sfk -o /dev/null -w x http://127.0.0.1:9901/readyz')
        test \"\$before\" != \"$pid\" && systemctl is-enabled sidegate"
    check "rpm: an upgrade that refuses the configuration leaves the old process" "
        before=$pid
        echo rout >/etc/sidegate/broken.hcl
        rpm -U --force --nodeps /root/pkg/sidegate.rpm || exit 1
        rm /etc/sidegate/broken.hcl
        test \"\$before\" = \"$pid\" && curl -sf http://127.0.0.1:9901/readyz"
    check "rpm: erasing stops it, and keeps the edited configuration and the state" '
        rpm -e --nodeps sidegate && ! pgrep -x sidegate && ! systemctl is-enabled --quiet sidegate || exit 1
        grep -q "^# edited" /etc/sidegate/sidegate.hcl.rpmsave && test -e /var/lib/sidegate/ca/root.pem && test ! -e /usr/bin/sidegate'
fi
check "no unit has failed" 'systemctl --failed --no-legend --plain | grep sidegate && exit 1; true'

echo "passed=$passed failed=$failed"
[ "$failed" = 0 ]
