//! The mounts of namespaces as JSON lines, as docs/json.md promises.

use jiff::tz::TimeZone;

use super::{
    super::{
        Clock, Text, escape,
        json::{Object, line, object},
        mount_op,
        tree::maker_json as maker,
    },
    MountsView,
};
use crate::mounts::{Birth, Mount, MountKey, MountNs, Sight, info, order};

/// Appends the `mounts` line.
pub fn head(out: &mut Text, view: &MountsView) {
    let mut clock = Clock::new(TimeZone::UTC);
    clock.set_offset(view.tree.wall_offset_ns);
    line(out, "mounts", view.tree.now_ns, &mut clock, |object| {
        object.word("by", view.mounts.way.name());
        object.number("namespaces", view.mounts.namespaces.len() as u64);
        object.number("mounts", view.mounts.len() as u64);
        object.some("unseen_tasks", view.tree.unseen.tasks);
    });
}

/// Appends a `mount_namespace` line, and a `mount` line for each mount, the parent first.
pub fn namespace(out: &mut Text, view: &MountsView, at: usize) {
    let Some(ns) = view.mounts.namespaces.get(at) else {
        return;
    };
    namespace_line(out, view, ns);
    for placed in order(ns) {
        let key = MountKey {
            ns: at,
            mount: placed.mount,
        };
        mount_line(out, view, key);
    }
}

/// Appends a `mount_namespace` line.
pub fn namespace_line(out: &mut Text, view: &MountsView, ns: &MountNs) {
    object(out, |object| {
        object.word("type", "mount_namespace");
        object.number("inum", ns.inum);
        object.some("id", ns.id);
        let key = view.key(ns.inum);
        let known = key.and_then(|key| view.world.namespace(key));
        if let Some(owner) = known.and_then(|ns| view.world.namespace(ns.owner?)) {
            object.number("owner", owner.inum);
        }
        if let Some(birth) = view.births.of(ns.inum, ns.id) {
            born(object, view, birth);
        }
        object.number("tasks", known.map_or(0, |ns| ns.members_len()) as u64);
        object.number("mounts", ns.mounts.len() as u64);
        match &ns.sight {
            Sight::Whole => {}
            Sight::Below => object.text("unseen", "what is above the root of its tasks"),
            Sight::None(why) => object.text("unseen", why),
        }
    });
    out.push('\n');
}

/// Writes how a namespace came about.
fn born(object: &mut Object, view: &MountsView, birth: &Birth) {
    object.some("born_mono_ns", birth.time.unwrap_or(0));
    self::object(object.key("maker"), |object| {
        maker(object, &birth.maker, view.tree);
    });
    if let Some(origin) = birth.origin {
        object.number("copied_from", origin.inum);
        object.number("copied_mounts", origin.mounts);
    }
}

/// Appends a `mount` line.
pub fn mount_line(out: &mut Text, view: &MountsView, key: MountKey) {
    let (Some(mount), Some(ns)) = (view.mounts.get(key), view.mounts.namespaces.get(key.ns)) else {
        return;
    };
    object(out, |object| {
        object.word("type", "mount");
        object.number("ns", ns.inum);
        self::mount(object, mount);
        object.number("copies", view.copies.count(key) as u64);
        let origin = view.makers.get(mount.id, mount.unique);
        mount_op::maker_json(object, origin, view.tree.now_ns);
    });
    out.push('\n');
}

/// Writes the fields of a mount.
pub fn mount(object: &mut Object, mount: &Mount) {
    object.number("id", mount.id);
    object.some("unique_id", mount.unique);
    object.number("parent", mount.parent);
    object.name("point", &mount.point);
    object.name("fs", &mount.fs);
    object.word("device", &mount.device.to_string());
    object.name("root", &mount.root);
    if !mount.source.is_empty() {
        object.name("source", &mount.source);
    }
    names(object, "options", &mount.options);
    names(object, "super_options", &mount.super_options);
    object.some("peer_group", mount.group);
    object.some("master", mount.master);
    object.some("propagate_from", mount.from);
    if mount.unbindable {
        object.flag("unbindable");
    }
}

/// Writes options, each as a name.
fn names(object: &mut Object, key: &str, list: &[u8]) {
    let out = object.key(key);
    out.push('[');
    for (i, option) in info::options(list).enumerate() {
        if i > 0 {
            out.push(',');
        }
        escape::json_name(out, &option);
    }
    out.push(']');
}
