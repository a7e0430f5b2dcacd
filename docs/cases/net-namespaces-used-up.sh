#!/bin/sh
# No net namespace can be made any more: net-namespaces-used-up.md.
set -eu

limit=/proc/sys/user/max_net_namespaces
before=$(cat $limit)
cgroups=/sys/fs/cgroup
[ ! -d $cgroups/unified ] || cgroups=$cgroups/unified
web=$cgroups/docker-1111111111111111111111111111111111111111111111111111111111111111.scope
db=$cgroups/docker-2222222222222222222222222222222222222222222222222222222222222222.scope
dir=$(mktemp -d)
pids=
cleanup() {
    echo "$before" >$limit
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    [ -z "$pids" ] || wait $pids 2>/dev/null || :
    for mount in "$dir"/netns-*; do
        umount "$mount" 2>/dev/null || :
    done
    rmdir $web $db 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

mkdir $web $db || fail "no cgroup v2 at $cgroups"

# A process with a net namespace of its own, in the cgroup of a container.
start() {
    sh -c 'echo $$ >"$1/cgroup.procs" && exec unshare --net sleep 1000' sh "$1" &
    pids="$pids $!"
    until net=$(readlink /proc/$!/ns/net) && [ "$net" != "$(readlink /proc/self/ns/net)" ]; do
        sleep 0.1
    done
    echo "$net is that of process $! in $1"
}

# One container has four, one has one, and two are left behind without a process.
for number in 1 2 3 4; do
    start $web
done
start $db
for number in 1 2; do
    : >"$dir/netns-$number"
    unshare --net="$dir/netns-$number" true
    echo "net:[$(stat -c %i "$dir/netns-$number")] is at $dir/netns-$number"
done

: >"$dir/log"
nstrace --failed >"$dir/tail" 2>"$dir/log" &
tail=$!
pids="$pids $tail"
until grep -q ready "$dir/log"; do
    kill -0 $tail 2>/dev/null || fail "$(cat "$dir/log")"
    sleep 0.1
done
# Seven are there at least, so there is no room for one more.
echo 7 >$limit
! unshare --net true 2>"$dir/error" || fail "there was room"
cat "$dir/error"
grep -q 'No space left on device' "$dir/error" || fail "another reason"
kill -INT $tail
wait $tail || :

echo "# nstrace --failed"
cat "$dir/tail"
echo "# nstrace tree"
nstrace tree || echo "exit status $?"
