#!/bin/sh
# A tmpfs of a mount namespace that is gone, still in memory because somebody outside has one
# file of it mapped: tmpfs-of-dead-container.md.
set -eu

dir=$(mktemp -d)
pids=
cleanup() {
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}
# A library that such a program has anyway. A timeout that is killed while it begins may leave its
# child behind, which is not to keep our output open.
timeout 1000 sleep 1 >/dev/null 2>&1 &
pids=$!
until lib=$(awk '$6 ~ /\/libc[.-]/ { print $6; exit }' /proc/$pids/maps) && [ -n "$lib" ]; do
    sleep 0.1
done
kill $pids
wait $pids 2>/dev/null || :
pids=

# A container with a tmpfs, with 16 MB in it and a library.
mkdir "$dir/data"
unshare --mount --propagation private sh -c '
    mount -t tmpfs data "$1/data"
    cp "$2" "$1/data/plugin.so"
    dd if=/dev/zero of="$1/data/big" bs=1M count=16 2>/dev/null
    : >"$1/ready"
    exec sleep 1000' container "$dir" "$lib" &
container=$!
pids=$container
until [ -e "$dir/ready" ]; do
    sleep 0.1
done
link=$(readlink /proc/$container/ns/mnt)
device=$(awk -v point="$dir/data" '$5 == point { print $3 }' /proc/$container/mountinfo)

# An agent outside loads the library out of it: the file is mapped, and no longer open.
LD_PRELOAD="/proc/$container/root$dir/data/plugin.so" timeout 1000 env -u LD_PRELOAD sleep 1000 &
agent=$!
pids="$pids $agent"
until grep -q plugin.so /proc/$agent/maps; do
    sleep 0.1
done

# The container ends, and its namespace with it.
kill $container
wait $container 2>/dev/null || :
for mnt in /proc/[0-9]*/ns/mnt; do
    [ "$(readlink "$mnt" 2>/dev/null)" != "$link" ] || fail "$mnt is in it"
done
for mounts in /proc/[0-9]*/mountinfo; do
    ! grep -q " $device " "$mounts" 2>/dev/null || fail "$mounts has it"
done
grep -q plugin.so /proc/$agent/maps || fail "it is not mapped any more"

echo "left: $device, mapped by process $agent"
for command in "mounts --orphans" "mounts --who $device"; do
    echo "# nstrace $command"
    nstrace $command || echo "exit status $?"
done
