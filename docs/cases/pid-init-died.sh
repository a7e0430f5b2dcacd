#!/bin/sh
# A pid namespace whose init is dead and does not end: pid-init-died.md.
set -eu

pids=
cleanup() {
    # The stopped one goes on, takes its dead child away, and init can end.
    for pid in $pids; do
        kill -CONT "$pid" 2>/dev/null || :
        kill "$pid" 2>/dev/null || :
    done
}
trap cleanup EXIT
fail() {
    echo "not reproduced: $*" >&2
    exit 1
}

# The state of a process: the first field of its stat behind its name.
state_of() {
    sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null
}

# Waits for the child of a process.
child_of() {
    until child=$(cat "/proc/$1/task/$1/children") && [ -n "$child" ]; do
        kill -0 "$1" || return
        sleep 0.1
    done
    echo "${child% }"
}

# A container.
unshare --pid --fork sleep 1000 &
engine=$!
pids=$engine
init=$(child_of $engine) || fail "no container"
inum=$(readlink "/proc/$init/ns/pid")
inum=${inum#pid:[}
inum=${inum%]}
[ "pid:[$inum]" != "$(readlink /proc/self/ns/pid)" ] || fail "no pid namespace"

# What `docker exec` leads to: a process in the namespace, whose parent is outside.
nsenter --target "$init" --pid sleep 1000 &
parent=$!
pids="$parent $pids"
child=$(child_of $parent) || fail "nothing entered"
[ "$(readlink "/proc/$child/ns/pid")" = "pid:[$inum]" ] || fail "$child is elsewhere"

# The parent hangs: it will not take its child away.
kill -STOP $parent
until [ "$(state_of $parent)" = T ]; do
    sleep 0.1
done

# The container is told to end. Its init kills all that is in the namespace, and waits
# until it is empty.
kill -KILL "$init"
sleep 1
[ "$(state_of "$child")" = Z ] || fail "$child is not a zombie"
state=$(state_of "$init")
case $state in
S | D | I) ;;
*) fail "init is '$state'" ;;
esac

echo "init $init of pid:[$inum] waits, in state $state"
echo "zombie $child waits for its parent $parent, which is stopped"
for command in "why pid:$inum" "why $init" "why $child"; do
    echo "# nstrace $command"
    nstrace $command || echo "exit status $?"
done
