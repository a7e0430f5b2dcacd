#!/bin/sh
# Two net namespaces that their containers left behind: netns-left-behind.md.
set -eu

dir=$(mktemp -d)
pids=
cleanup() {
    [ -z "$pids" ] || kill $pids 2>/dev/null || :
    for mount in "$dir"/cni-*; do
        umount "$mount" 2>/dev/null || :
    done
    rm -rf "$dir"
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

# A container, and the mount that an engine makes of its net namespace. Sets inum.
start_container() {
    unshare --net sleep 1000 &
    container=$!
    pids="$pids $container"
    until inum=$(readlink /proc/$container/ns/net) && [ "$inum" != "$(readlink /proc/self/ns/net)" ]; do
        sleep 0.1
    done
    inum=${inum#net:[}
    inum=${inum%]}
    : >"$1"
    mount --bind /proc/$container/ns/net "$1"
}

# The container ends, and nothing is in its net namespace any more.
end_container() {
    kill "$1"
    wait "$1" 2>/dev/null || :
    for link in /proc/[0-9]*/ns/net; do
        [ "$(readlink "$link" 2>/dev/null)" != "net:[$2]" ] || fail "$link is in it"
    done
}

# The engine forgets the first mount.
start_container "$dir/cni-forgotten"
forgotten=$inum
end_container "$container" "$forgotten"
nsenter --net="$dir/cni-forgotten" true || fail "net:[$forgotten] is gone"

# It does not forget the second. But a daemon has a mount namespace of its own, made
# while the mount was there, with a copy of it (and of the first).
start_container "$dir/cni-copied"
copied=$inum
unshare --mount --propagation private sleep 1000 &
daemon=$!
pids="$pids $daemon"
until [ "$(readlink /proc/$daemon/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]; do
    sleep 0.1
done
end_container "$container" "$copied"
umount "$dir/cni-copied"
grep -qF "net:[$copied]" /proc/$daemon/mountinfo || fail "net:[$copied] is gone"
grep -qF "net:[$copied]" /proc/self/mountinfo && fail "net:[$copied] is mounted here"

echo "left behind: net:[$forgotten] at $dir/cni-forgotten"
echo "left behind: net:[$copied] in process $daemon's $(readlink /proc/$daemon/ns/mnt)"
for command in "leaks" "why net:$forgotten" "why net:$copied"; do
    echo "# nstrace $command"
    nstrace $command || echo "exit status $?"
done
