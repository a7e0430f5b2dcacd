//! The mounts of namespaces as text.
//!
//! A line for each mount, in columns that fit on 100. What does not fit goes on in a line of
//! its own: a mount point before the columns, options and source behind them.

use super::{
    super::{
        Text,
        color::Style,
        escape::Escaped,
        text::{length, task},
        tree::{Page, words},
    },
    MountsView,
};
use crate::{
    mount_ops::origins::Origin,
    mounts::{Mount, MountKey, MountNs, Sight, order},
};

/// So wide are lines where no terminal says how wide it is; longer names are not cut there.
pub const WIDTH: usize = 100;

const ID: usize = 32;
const FS: usize = 38;
const DEVICE: usize = 47;
const PROPAGATION: usize = 55;
/// Where the number ends.
const COPIES_END: usize = 73;
const REST: usize = 74;

/// Lines of a page for mounts.
pub fn page<'o>(out: &'o mut Text, view: &MountsView) -> Page<'o> {
    let page = Page::new(out, Some(view.tree.width.unwrap_or(WIDTH)), view.tree.color);
    match view.tree.width {
        Some(_) => page,
        None => page.uncut(),
    }
}

/// Appends what stands above all namespaces.
pub fn head(out: &mut Text, view: &MountsView) {
    let mut page = page(out, view);
    missing(&mut page, view);
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            page.str("MOUNT POINT");
            for (column, name) in [
                (ID, "ID"),
                (FS, "FS"),
                (DEVICE, "DEVICE"),
                (PROPAGATION, "PROPAGATION"),
                (COPIES_END - "COPIES".len(), "COPIES"),
                (REST, "OPTIONS, SOURCE"),
            ] {
                page.to(column);
                page.str(name);
            }
        });
    });
}

/// A line that says what could not be looked at, if that is so.
pub fn missing(page: &mut Page, view: &MountsView) {
    let tasks = view.tree.unseen.tasks as usize;
    if tasks > 0 {
        page.line(0, |page| {
            page.styled(Style::Reason, |page| {
                page.str("could not be looked at: the namespaces of ");
                page.count(tasks, "task", "tasks");
            });
        });
    }
}

/// Appends a namespace: its name, who is in it, its mounts.
pub fn namespace(out: &mut Text, view: &MountsView, at: usize) {
    let Some(ns) = view.mounts.namespaces.get(at) else {
        return;
    };
    let mut page = page(out, view);
    page.line(0, |page| {
        page.styled(Style::Bold, |page| name(page, view, ns));
        if !matches!(ns.sight, Sight::None(_)) {
            page.str(", ");
            page.count(ns.mounts.len(), "mount", "mounts");
        }
    });
    born(&mut page, view, ns);
    who(&mut page, view, ns);
    sight(&mut page, ns);
    for placed in order(ns) {
        let key = MountKey {
            ns: at,
            mount: placed.mount,
        };
        if let Some(mount) = view.mounts.get(key) {
            let copies = view.copies.count(key);
            let level = placed.depth + 1;
            self::mount(&mut page, level, mount, copies);
            made(&mut page, level + 1, view, mount);
        }
    }
}

/// A line on who made a mount, if that is known.
pub fn made(page: &mut Page, level: usize, view: &MountsView, mount: &Mount) {
    let Some(Origin { birth, maker }) = view.makers.get(mount.id, mount.unique) else {
        return;
    };
    page.line(level, |page| {
        page.str(maker.verb());
        page.str(" by ");
        task(page.out, maker.comm(), maker.pid);
        page.str(" ");
        length(page.out, view.tree.now_ns.saturating_sub(maker.start));
        page.str(" ago");
        if birth.from != 0 {
            page.str(", from mount ");
            page.number(birth.from);
        }
    });
}

/// Appends `mnt:4026531841 (first)`.
pub fn name(page: &mut Page, view: &MountsView, ns: &MountNs) {
    page.str("mnt:");
    page.number(ns.inum);
    if view.is_first(ns.inum) {
        page.str(" (first)");
    }
}

/// A line on how a namespace came about, if that is known.
pub fn born(page: &mut Page, view: &MountsView, ns: &MountNs) {
    let Some(birth) = view.births.of(ns.inum, ns.id) else {
        return;
    };
    page.line(1, |page| {
        page.str("made by ");
        words::maker(page, &birth.maker, birth.time, view.tree.now_ns);
        if let Some(origin) = birth.origin {
            page.str(": ");
            page.count(origin.mounts as usize, "mount", "mounts");
            page.str(" copied from mnt:");
            page.number(origin.inum);
        }
    });
}

/// Lines on who is in a namespace, or what holds it.
pub fn who(page: &mut Page, view: &MountsView, ns: &MountNs) {
    let Some(key) = view.key(ns.inum) else {
        return page.words(
            1,
            Style::Reason,
            "no task is in it; held by nothing that can be seen",
        );
    };
    let mut containers: Vec<&[u8]> = view
        .world
        .members(key)
        .filter_map(|task| view.tree.container(view.world.task(task)?.cgroup))
        .collect();
    containers.sort_unstable();
    containers.dedup();
    const NAMED: usize = 4;
    for id in containers.iter().take(NAMED) {
        page.line(1, |page| words::container(page, id, view.tree));
    }
    if containers.len() > NAMED {
        page.line(1, |page| {
            page.str("and ");
            page.count(
                containers.len() - NAMED,
                "other container",
                "other containers",
            );
        });
    }
    match view.world.members(key).next() {
        Some(_) => page.line(1, |page| {
            words::members(page, view.world, view.world.members(key), view.tree);
        }),
        None => {
            page.line(1, |page| page.str("no task is in it"));
            words::held_by(page, 1, view.world, key, NAMED);
        }
    }
}

/// A line that says how well a namespace is seen, if that is not well.
pub fn sight(page: &mut Page, ns: &MountNs) {
    match &ns.sight {
        Sight::Whole => {}
        Sight::Below => page.words(
            1,
            Style::Reason,
            "only what is below the root of its tasks: it may not be entered",
        ),
        Sight::None(why) => {
            page.words(1, Style::Reason, &format!("its mounts are not seen: {why}"));
        }
    }
}

fn mount(page: &mut Page, level: usize, mount: &Mount, copies: usize) {
    use super::super::tree::Mark;
    page.begin(Mark::None, level);
    page.text(&Escaped(&mount.point).to_string());
    if page.out.column() >= ID {
        page.end();
        page.begin(Mark::None, 0);
    }
    page.to(ID);
    page.number(mount.id);
    page.to(FS);
    page.text(&Escaped(&mount.fs).to_string());
    page.to(DEVICE);
    page.str(&mount.device.to_string());
    page.to(PROPAGATION);
    page.str(&propagation(mount));
    if copies > 0 {
        let text = copies.to_string();
        page.to(COPIES_END.saturating_sub(text.len()));
        page.str(&text);
    }
    page.to(REST);
    rest(page, &[options(mount), source(mount)]);
}

/// Appends parts, each on a line of its own if it does not fit on this one.
fn rest(page: &mut Page, parts: &[String]) {
    use super::super::tree::Mark;
    let mut is_first = true;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let columns = part.chars().count();
        if !page.fits(columns + usize::from(!is_first)) && page.out.column() > REST {
            page.end();
            page.begin(Mark::None, 0);
            page.to(if columns > WIDTH - REST { FS } else { REST });
        } else if !is_first {
            page.str(" ");
        }
        page.text(part);
        is_first = false;
    }
    page.end();
}

/// `shared:12`, `slave of 12`, both, `private` or `unbindable`.
pub fn propagation(mount: &Mount) -> String {
    let mut parts = Vec::new();
    if mount.group != 0 {
        parts.push(format!("shared:{}", mount.group));
    }
    if mount.master != 0 {
        parts.push(format!("slave of {}", mount.master));
    }
    if mount.unbindable {
        parts.push("unbindable".to_owned());
    }
    match parts.is_empty() {
        true => "private".to_owned(),
        false => parts.join(","),
    }
}

/// The flags of a mount but the usual `relatime`, and those of the file system that differ.
pub fn options(mount: &Mount) -> String {
    let of = |list: &[u8]| -> Vec<String> {
        let options = crate::mounts::info::options(list);
        options.map(|option| Escaped(&option).to_string()).collect()
    };
    let own = of(&mount.options);
    let is_read_only = own.iter().any(|option| option == "ro");
    let worth = |option: &String| match option.as_str() {
        "ro" => !is_read_only,
        "sync" | "dirsync" | "mand" | "lazytime" => true,
        _ => false,
    };
    let of_fs: Vec<String> = of(&mount.super_options).into_iter().filter(worth).collect();
    let own: Vec<String> = own.into_iter().filter(|one| one != "relatime").collect();
    match of_fs.is_empty() {
        true => own.join(","),
        false => format!("{} (fs: {})", own.join(","), of_fs.join(",")),
    }
}

/// `/dev/sda1[/sub]`: what is not said by the type already.
pub fn source(mount: &Mount) -> String {
    let mut text = String::new();
    if mount.source != mount.fs && !mount.source.is_empty() {
        text += &Escaped(&mount.source).to_string();
    }
    if &*mount.root != b"/" {
        text += &format!("[{}]", Escaped(&mount.root));
    }
    text
}
