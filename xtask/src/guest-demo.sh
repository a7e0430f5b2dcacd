#!/bin/sh
# Starts a real container in a guest and shows what nstrace sees of it.

set -eu

say() { printf '\n== %s\n' "$*"; }

say "Linux $(uname -r)"

say "an OCI bundle in /tmp/demo: busybox as the container's root, and runc's own specification"
mkdir -p /tmp/demo/rootfs/bin /tmp/demo/rootfs/dev /tmp/demo/rootfs/proc /tmp/demo/rootfs/sys
cd /tmp/demo
cp /usr/bin/busybox rootfs/bin/
for applet in sh id hostname ps; do
    ln -s busybox "rootfs/bin/$applet"
done
runc spec
sed -i -e 's/"terminal": true/"terminal": false/' \
    -e 's/"sh"/"sh", "-c", "id; hostname; ps"/' config.json

if command -v nstrace >/dev/null; then
    say "nstrace --path -- runc run demo: each operation on namespaces, with its call tree"
    nstrace --path -- runc run demo
else
    say "runc run demo (nstrace is not built)"
    runc run demo
fi
