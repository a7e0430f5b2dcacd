//! What keeps a file system, as JSON lines, as docs/json.md promises.

use jiff::tz::TimeZone;

use super::{
    super::{
        Clock, Text, escape,
        json::{Object, cgroup, line, object},
    },
    json::{mount_line, namespace_line},
    steps::{Step, steps, steps_of_detached},
    who::{Inside, WhoView},
};
use crate::mounts::{
    uses::{Detached, How, Use},
    who::{Kept, Scope},
};

/// Appends a `who` line, then lines of namespaces, mounts, who uses them, what no namespace
/// has, what the kernel has, and what to do.
pub fn who(out: &mut Text, view: &WhoView) {
    let kept = view.kept();
    let inside = view.inside();
    head(out, view);
    for kept in kept.chunk_by(|one, next| one.key.ns == next.key.ns) {
        let ns = kept.first().map(|one| one.key.ns);
        if let Some(ns) = ns.and_then(|ns| view.all.mounts.namespaces.get(ns)) {
            namespace_line(out, view.all, ns);
        }
        kept.iter().for_each(|one| self::kept(out, view, one));
    }
    for mount in &view.uses.detached {
        detached(out, mount);
        view.uses
            .of_mount(mount.id)
            .for_each(|one| used(out, view, one));
    }
    view.uses.elsewhere().for_each(|one| used(out, view, one));
    kernel(out, &inside);
    let steps = match view.subject {
        Some(_) => steps(view, &kept, &inside),
        None => steps_of_detached(view),
    };
    steps.iter().for_each(|one| step(out, one));
}

fn head(out: &mut Text, view: &WhoView) {
    let mut clock = Clock::new(TimeZone::UTC);
    let tree = view.all.tree;
    clock.set_offset(tree.wall_offset_ns);
    line(out, "who", tree.now_ns, &mut clock, |object| {
        if let Some(subject) = view.subject {
            object.name("asked", &subject.asked);
            object.objects("devices", subject.parts.iter(), |object, part| {
                object.word("device", &part.device.to_string());
                if !part.name.is_empty() {
                    object.name("name", &part.name);
                }
            });
            match &subject.scope {
                Scope::All => object.word("scope", "all"),
                Scope::Part(root) => {
                    object.word("scope", "part");
                    object.name("root", root);
                }
                Scope::On(_) => object.word("scope", "on"),
            }
            object.some("others", view.others() as u64);
        } else {
            object.word("scope", "orphans");
        }
        object.some("unseen_tasks", tree.unseen.tasks);
        object.some("unseen_processes", view.uses.unseen as u64);
        object.some("hung_processes", view.uses.hung.len() as u64);
        object.some("left_out_processes", view.uses.left_out as u64);
    });
}

fn kept(out: &mut Text, view: &WhoView, kept: &Kept) {
    mount_line(out, view.all, kept.key);
    kept.uses.iter().for_each(|one| used(out, view, one));
    kept.below_uses.iter().for_each(|one| used(out, view, one));
    if let Some(references) = view.uses.held.get(&kept.mount.id) {
        object(out, |object| {
            object.word("type", "held");
            object.number("mount", kept.mount.id);
            object.number("references", *references);
        });
        out.push('\n');
    }
    for below in &kept.below {
        object(out, |object| {
            object.word("type", "below");
            object.number("mount", kept.mount.id);
            object.number("id", below.id);
            object.name("point", &below.point);
            object.name("fs", &below.fs);
            object.word("device", &below.device.to_string());
        });
        out.push('\n');
    }
}

fn used(out: &mut Text, view: &WhoView, one: &Use) {
    object(out, |object| {
        object.word("type", "use");
        object.some("mount", one.mount);
        object.word("device", &one.device.to_string());
        object.number("pid", one.pid);
        object.number("tid", one.tid);
        object.name("comm", view.comm(one));
        let world = view.all.world;
        let task = world.by_tid(one.tid).and_then(|key| world.task(key));
        if let Some(task) = task {
            cgroup(object, task.cgroup, view.all.tree.cgroups);
            let id = view.all.tree.container(task.cgroup);
            if let Some(name) = id.and_then(|id| view.all.tree.names.get(id)) {
                escape::json_name(object.key("container_name"), name.as_bytes());
            }
        }
        object.objects("files", one.files.iter(), |object, (how, path)| {
            file(object, *how);
            object.name("path", path);
        });
        object.some("more", one.more as u64);
    });
    out.push('\n');
}

fn file(object: &mut Object, how: How) {
    let mut open = |what: &str, fd: u32| {
        object.word("how", what);
        object.number("fd", fd);
    };
    match how {
        How::Cwd => object.word("how", "cwd"),
        How::Root => object.word("how", "root"),
        How::Exe => object.word("how", "exe"),
        How::Mapped => object.word("how", "mapped"),
        How::Open(fd) => open("descriptor", fd),
        How::Socket(fd) => open("socket", fd),
        How::Block(fd) => open("block", fd),
    }
}

fn detached(out: &mut Text, mount: &Detached) {
    object(out, |object| {
        object.word("type", "detached");
        object.number("id", mount.id);
        object.some("unique_id", mount.unique);
        object.word("device", &mount.device.to_string());
        if !mount.fs.is_empty() {
            object.name("fs", &mount.fs);
        }
        if let Some(bytes) = mount.bytes {
            object.number("memory_bytes", bytes);
        }
    });
    out.push('\n');
}

fn kernel(out: &mut Text, inside: &Inside) {
    let mut line = |what: &str, write: &mut dyn FnMut(&mut Object)| {
        object(out, |object| {
            object.word("type", "kernel");
            object.word("what", what);
            write(object);
        });
        out.push('\n');
    };
    for one in &inside.loops {
        line("loop", &mut |object| {
            object.name("name", &one.name);
            object.word("device", &one.device.to_string());
            object.name("path", &one.file);
        });
    }
    for one in &inside.swaps {
        line("swap", &mut |object| object.name("path", &one.path));
    }
    for one in &inside.layers {
        line("layer", &mut |object| {
            object.number("mount", one.mount.id);
            object.word("device", &one.mount.device.to_string());
            object.word("option", one.option);
            object.name("path", &one.dir);
        });
    }
}

fn step(out: &mut Text, step: &Step) {
    object(out, |object| {
        object.word("type", "step");
        if !step.say.is_empty() {
            object.text("say", &step.say);
        }
        if let Some(command) = &step.command {
            object.text("command", command);
        }
    });
    out.push('\n');
}
