#!/bin/sh
# A directory that cannot be removed where a copied mount is, and a device that is in use
# though nobody has it mounted: mount-copied.md.
set -eu

dir=$(mktemp -d)
pids=
cleanup() {
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    umount "$dir/layer" 2>/dev/null || :
    umount "$dir/other" 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

# What an engine mounts for a container.
mkdir "$dir/layer"
mount -t tmpfs layer "$dir/layer"
: >"$dir/layer/file"
device=$(awk -v point="$dir/layer" '$5 == point { print $3 }' /proc/self/mountinfo)

# A daemon starts in a mount namespace of its own, with copies of all mounts. When it is told
# to, it removes the directory, as an engine does.
unshare --mount --propagation private sh -c '
    until [ -e "$1/go" ]; do sleep 0.1; done
    rmdir "$1/layer" 2>"$1/error" || :
    : >"$1/done"
    exec sleep 1000' daemon "$dir" &
daemon=$!
pids=$daemon
until [ "$(readlink /proc/$daemon/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; do
    sleep 0.1
done

# The container ends. Here the mount is gone, there it is not.
umount "$dir/layer"
grep -qF " $dir/layer " /proc/self/mountinfo && fail "it is still mounted here"
: >"$dir/go"
until [ -e "$dir/done" ]; do
    sleep 0.1
done
grep -qi "busy" "$dir/error" || fail "the directory was removed: $(cat "$dir/error")"
[ -d "$dir/layer" ] || fail "the directory is gone"
inum=$(readlink /proc/$daemon/ns/mnt)
inum=${inum#mnt:[}
inum=${inum%]}

echo "the daemon says: $(cat "$dir/error")"
echo "copied: $dir/layer of $device in process $daemon's mnt:[$inum]"
for command in "mounts --who $dir/layer" "mounts --who $device"; do
    echo "# nstrace $command"
    nstrace $command || echo "exit status $?"
done

# What it says to do helps.
nsenter -t $daemon -m umount "$dir/layer"
nsenter -t $daemon -m rmdir "$dir/layer" || fail "it is still busy"
echo "removed: $dir/layer"
