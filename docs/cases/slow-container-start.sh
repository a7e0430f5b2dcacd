#!/bin/sh
# A container starts slowly while the net namespaces of others are taken down:
# slow-container-start.md.
set -eu

# How many containers end at once, with how many interfaces each.
containers=100
interfaces=10

dir=$(mktemp -d)
pids=
cleanup() {
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    umount -l "$dir/netns" 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

# Hundredths of a second since the start of the machine.
now() {
    cut -d ' ' -f 1 /proc/uptime | tr -d .
}

# Starts a container, and says how long it took.
start_container() {
    start=$(now)
    unshare --net true
    echo $(($(now) - start))
}

# Dummy interfaces. Where there is no module for them, more containers do.
modprobe dummy 2>/dev/null || :
if ! unshare --net ip link add eth0 type dummy 2>/dev/null; then
    interfaces=0
    containers=300
fi
number=0
: >"$dir/links"
while [ $number -lt $interfaces ]; do
    echo "link add eth$number type dummy" >>"$dir/links"
    number=$((number + 1))
done

# The net namespaces of many containers, each held by a mount, all on one tmpfs.
mkdir "$dir/netns"
mount -t tmpfs tmpfs "$dir/netns"
mount --make-private "$dir/netns"
number=0
while [ $number -lt $containers ]; do
    : >"$dir/netns/$number"
    unshare --net="$dir/netns/$number" ip -batch "$dir/links"
    number=$((number + 1))
done

: >"$dir/log"
nstrace --path --slower-than 10ms >"$dir/tail" 2>"$dir/log" &
tail=$!
pids=$tail
until grep -q ready "$dir/log"; do
    kill -0 $tail 2>/dev/null || fail "$(cat "$dir/log")"
    sleep 0.1
done

quiet=$(start_container)
for try in 1 2; do
    took=$(start_container)
    [ "$took" -ge "$quiet" ] || quiet=$took
done
# All of them go at once, and the kernel takes them down behind our back.
umount -l "$dir/netns"
slow=0
for try in 1 2 3 4 5 6 7 8 9 10; do
    took=$(start_container)
    [ "$took" -le "$slow" ] || slow=$took
done
kill -INT $tail
wait $tail || :

echo "unshare --net true: ${quiet}0 ms before, ${slow}0 ms meanwhile"
[ "$slow" -ge $((quiet + 5)) ] || fail "it was not slow"
echo "# nstrace --path --slower-than 10ms"
cat "$dir/tail"
