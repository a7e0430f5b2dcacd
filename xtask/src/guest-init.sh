#!/usr/bin/busybox sh
# The first program of a guest. It runs twice: from the initramfs, where it moves
# everything to a tmpfs (pivot_root, and so runc, fails on an initramfs), and
# from there as /sbin/init.
#
# Three virtio ports lead out: stdout and stderr of the command, and status. The
# command writes into pipes, not into the ports: a port can be opened only once,
# and /dev/stdout must work. Behind the last byte of each stream goes a mark,
# so that the host knows that it has everything.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root USER=root LOGNAME=root LANG=C.UTF-8 TERM=${TERM:-vt220}
BB=/usr/bin/busybox
. /etc/vm/config

if [ ! -e /etc/vm/moved ]; then
    $BB mount -t tmpfs -o mode=755,size=75% tmpfs /mnt
    : >/etc/vm/moved
    for top in /*; do
        case $top in
        /dev | /init | /mnt) ;;
        *) $BB cp -a "$top" /mnt/ ;;
        esac
    done
    $BB mkdir -p /mnt/dev /mnt/mnt /mnt/proc /mnt/run /mnt/sys /mnt/tmp
    $BB chmod 1777 /mnt/tmp
    exec $BB switch_root /mnt /sbin/init
fi

put() { $BB mount -t "$1" -o "$2" "$1" "$3"; }
put proc nosuid,nodev,noexec /proc
put sysfs nosuid,nodev,noexec /sys
put devtmpfs nosuid,mode=755 /dev
$BB mkdir -p /dev/pts /dev/shm
put devpts nosuid,noexec,gid=5,mode=620,ptmxmode=666 /dev/pts
put tmpfs nosuid,nodev,mode=1777 /dev/shm
put tmpfs nosuid,nodev,mode=755 /run
put securityfs nosuid,nodev,noexec /sys/kernel/security
put debugfs nosuid,nodev,noexec,mode=700 /sys/kernel/debug
put tracefs nosuid,nodev,noexec,mode=700 /sys/kernel/tracing
put bpf nosuid,nodev,noexec,mode=700 /sys/fs/bpf
put cgroup2 nosuid,nodev,noexec,nsdelegate /sys/fs/cgroup
read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
$BB ln -s /proc/self/fd /dev/fd
$BB ln -s /proc/self/fd/0 /dev/stdin
$BB ln -s /proc/self/fd/1 /dev/stdout
$BB ln -s /proc/self/fd/2 /dev/stderr
echo guest >/proc/sys/kernel/hostname
$BB ifconfig lo up
for module in /etc/vm/modules/*.ko; do
    [ -e "$module" ] && $BB insmod "$module"
done

# A port's file appears a moment before the port can be opened (ENXIO, seen on
# 6.1 and two processors), and a failed redirection of exec would end us.
for port in 1 2 3; do
    until (: >/dev/vport0p$port) 2>/dev/null; do $BB usleep 2000; done
done
exec 3>/dev/vport0p1 4>/dev/vport0p2 5>/dev/vport0p3
cd /root

if [ "$VM_MODE" = shell ]; then
    # Held open: the last close would forget the size, and what was typed ahead.
    exec 6<>/dev/ttyS1
    $BB stty rows "$VM_ROWS" cols "$VM_COLUMNS" <&6
    echo ready >&5
    TERM=$VM_TERM $BB setsid $BB sh -c 'exec bash -l </dev/ttyS1 >/dev/ttyS1 2>&1' \
        3>&- 4>&- 5>&- 6>&-
    echo "exit $?" >&5
else
    $BB mkfifo -m 600 /run/out /run/err
    $BB cat </run/out >&3 3>&- 4>&- 5>&- &
    out=$!
    $BB cat </run/err >&4 3>&- 4>&- 5>&- &
    err=$!
    exec 8>/run/out 9>/run/err
    $BB rm /run/out /run/err
    $BB setsid /bin/sh /etc/vm/command </dev/null >&8 2>&9 3>&- 4>&- 5>&- 8>&- 9>&-
    status=$?
    exec 8>&- 9>&-
    # What the command left behind holds the pipes open and would hold us up.
    for process in /proc/[0-9]*; do
        process=${process#/proc/}
        case $process in
        1 | "$out" | "$err") ;;
        *) kill -9 "$process" 2>/dev/null ;;
        esac
    done
    wait "$out" "$err"
    printf '\036end of stream 70b1e5d2\036' >&3
    printf '\036end of stream 70b1e5d2\036' >&4
    echo "exit $status" >&5
fi
# The host ends the machine when it has read the status.
while :; do $BB sleep 1000; done
