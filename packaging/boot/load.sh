#!/bin/sh
# Requests to $URL, over and over, in several loops, until told to end; each that isn't
# answered with 200 is a failure.
#   load.sh start
#   load.sh stop    says how many there were; fails if one did, or if there were few
dir=/run/load
base=${URL:-https://localhost/}
case "$1" in
start)
    h2=--http2 several="${base}[1-20]" batch=20
    # Of plain HTTP/2 curl 7.88 can't send a second request on a connection.
    case "$base" in http:*) h2=--http2-prior-knowledge several="$base" batch=1 ;; esac
    if [ -d $dir ]; then # left by a check that failed
        touch $dir/stop
        for i in 1 2 3 4 5 6; do until [ -e $dir/ended.$i ]; do sleep 0.05; done; done
    fi
    rm -rf $dir
    mkdir $dir
    for i in 1 2 3 4 5 6; do
        # New connections for each request, and one for several, in turn.
        case $i in
        1 | 2) how="--http1.1" urls="$base" each=1 ;;
        3) how="--http1.1" urls="${base}[1-20]" each=20 ;;
        4 | 5) how="$h2" urls="$base" each=1 ;;
        6) how="$h2" urls="$several" each=$batch ;;
        esac
        want=$(seq $each | sed s/.*/200/ | tr '\n' ' ')
        (
            n=0
            while [ ! -e $dir/stop ]; do
                got=$(curl -sk $how --max-time 30 -o /dev/null -w '%{http_code} ' "$urls" 2>$dir/error.$i)
                status=$?
                if [ $status != 0 ] || [ "$got" != "$want" ]; then
                    echo "curl $how $urls: $status: $got $(cat $dir/error.$i)" >>$dir/failed
                fi
                n=$((n + each))
                echo $n >$dir/count.$i
            done
            touch $dir/ended.$i
        ) </dev/null >/dev/null 2>&1 &
    done
    # All are under way before anything happens to the gateway.
    for i in 1 2 3 4 5 6; do until [ -s $dir/count.$i ]; do sleep 0.05; done; done
    ;;
stop)
    before=$(cat $dir/count.* | awk '{ n += $1 } END { print n }')
    # And some more after it.
    until [ "$(cat $dir/count.* | awk '{ n += $1 } END { print n + 0 }')" -gt $((before + 30)) ]; do sleep 0.05; done
    touch $dir/stop
    for i in 1 2 3 4 5 6; do until [ -e $dir/ended.$i ]; do sleep 0.05; done; done
    cat $dir/count.* | awk '{ n += $1 } END { print n " requests" }'
    if [ -e $dir/failed ]; then
        wc -l <$dir/failed
        tail -n 5 $dir/failed
        exit 1
    fi
    ;;
esac
