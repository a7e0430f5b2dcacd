#!/bin/sh
# Each container copies all mounts that there are, and lets go of nearly all of them:
# mounts-of-every-container.md.
set -eu

# Each step doubles how many there are.
doublings=11

dir=$(mktemp -d)
pids=
cleanup() {
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    umount -l "$dir/layers" 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

# How many mounts there are here.
count() {
    wc -l </proc/self/mountinfo
}

# Starts a container, as unshare(1) does for it.
start_container() {
    unshare --mount --propagation unchanged true
}

: >"$dir/log"
nstrace --path --kind mnt >"$dir/tail" 2>"$dir/log" &
tail=$!
pids=$tail
until grep -q ready "$dir/log"; do
    kill -0 $tail 2>/dev/null || fail "$(cat "$dir/log")"
    sleep 0.1
done

few=$(count)
start_container

# Layers of images, each mounted for itself.
mkdir "$dir/layers"
mount -t tmpfs layers "$dir/layers"
mount --make-private "$dir/layers"
number=0
while [ $number -lt $doublings ]; do
    mkdir "$dir/layers/$number"
    mount --rbind "$dir/layers" "$dir/layers/$number"
    number=$((number + 1))
done
many=$(count)
for container in 1 2 3; do
    start_container
done

# One of them stays: it needs few, and keeps all.
unshare --mount --propagation unchanged sleep 1000 &
container=$!
pids="$pids $container"
until [ "$(readlink /proc/$container/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; do
    sleep 0.1
done
inum=$(readlink /proc/$container/ns/mnt)
inum=${inum#mnt:[}
inum=${inum%]}
has=$(wc -l </proc/$container/mountinfo)

kill -INT $tail
wait $tail || :
[ "$many" -gt $((few + 2000)) ] || fail "there are $many mounts, after $few"

echo "mounts here: $few before, $many now"
echo "a container in mnt:[$inum] has $has"
echo "# nstrace --path --kind mnt"
cat "$dir/tail"
echo "# nstrace mounts"
nstrace mounts >"$dir/mounts" || echo "exit status $?"
grep '^mnt:' "$dir/mounts"
