#!/bin/sh
# A net namespace that an open descriptor holds, and nothing else:
# held-by-descriptor.md.
set -eu

dir=$(mktemp -d)
pids=
cleanup() {
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    umount "$dir/foo" 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

# What `ip netns add foo` does: a namespace, and a mount of it.
: >"$dir/foo"
unshare --net="$dir/foo" true
sleep 1000 4<"$dir/foo" &
holder=$!
pids=$holder
until link=$(readlink /proc/$holder/fd/4); do
    sleep 0.1
done
# What `ip netns delete foo` does.
umount -l "$dir/foo"
rm "$dir/foo"

# A descriptor of a bind mount shows the mount's path; its inode is the namespace's.
inum=$(stat -L -c %i /proc/$holder/fd/4)
nsenter --net=/proc/$holder/fd/4 true || fail "$link is no namespace"
for net in /proc/[0-9]*/ns/net; do
    [ "$(readlink "$net" 2>/dev/null)" != "net:[$inum]" ] || fail "$net is in it"
done
for mounts in /proc/[0-9]*/mountinfo; do
    ! grep -qF "net:[$inum]" "$mounts" 2>/dev/null || fail "$mounts has it"
done

echo "held: net:[$inum] by descriptor 4 of process $holder"
for command in "leaks" "why net:$inum"; do
    echo "# nstrace $command"
    nstrace $command || echo "exit status $?"
done
