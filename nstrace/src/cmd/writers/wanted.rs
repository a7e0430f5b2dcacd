//! From what the user names to what the kernel knows a mount by.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use anyhow::{Context as _, anyhow, bail};

use super::super::{model::Model, output::say};
use crate::{
    cli::WatchedMounts,
    event::until_nul,
    kernel::{
        mounts::subject::{self, Stat, SubjectError},
        writers::Wanted,
    },
    mounts::{Device, Mount, Names, info},
    render::escape::Escaped,
};

/// The type whose upper layers have private clones.
const OVERLAY: &[u8] = b"overlay";

/// What to watch.
pub fn wanted(mounts: &WatchedMounts) -> anyhow::Result<Wanted> {
    let mut wanted = Wanted {
        all: mounts.all_mounts,
        fs: mounts.fs.clone(),
        private: mounts.fs.iter().any(|name| name.starts_with(OVERLAY)),
        ..Wanted::default()
    };
    for name in &mounts.fs {
        look_for_type(name);
    }
    for path in &mounts.mount {
        mount(&mut wanted, path)?;
    }
    for name in &mounts.dev {
        wanted.devices.push(device(name)?);
    }
    for name in &mounts.container {
        container(&mut wanted, name)?;
    }
    Ok(wanted)
}

/// Says so if the kernel knows no such type of file system: its module may come later.
fn look_for_type(name: &[u8; 16]) {
    let name = String::from_utf8_lossy(until_nul(name));
    // Without it, nobody knows.
    let Ok(types) = fs::read_to_string("/proc/filesystems") else {
        return;
    };
    if !types
        .lines()
        .any(|line| line.split_whitespace().last() == Some(&name))
    {
        say(&format!(
            "--fs {name}: this kernel has no such type now (/proc/filesystems): nothing is told \
             until it has"
        ));
    }
}

/// The mount that a path is on.
fn mount(wanted: &mut Wanted, path: &Path) -> anyhow::Result<()> {
    let asked = Escaped(path.as_os_str().as_bytes());
    let mounts = mountinfo("self")?;
    // What is itself a mount point need not be looked at: its file system may hang.
    let own = mounts
        .iter()
        .rfind(|mount| *mount.point == *path.as_os_str().as_bytes());
    let id = match (own, own.is_none().then(|| subject::look(path.as_os_str()))) {
        (Some(mount), _) => mount.id,
        (None, Some(Ok(file))) if file.mount != 0 => file.mount,
        (_, Some(Err(SubjectError::Open { why, .. }))) => {
            bail!("{asked}: {why}: say a path that is there")
        }
        (_, Some(Err(SubjectError::Hangs(_)))) => bail!(
            "{asked}: its file system does not answer: say the mount point itself, or \
             --dev MAJOR:MINOR as `nstrace mounts` shows it"
        ),
        _ => bail!(
            "{asked}: this kernel does not tell which mount it is on (Linux 5.8 does): say --dev"
        ),
    };
    wanted.ids.push(id);
    if let Some(mount) = mounts.iter().find(|mount| mount.id == id) {
        upper(wanted, mount);
    }
    Ok(())
}

/// The private clone of the upper layer of an overlay: by the directory that is its root.
fn upper(wanted: &mut Wanted, mount: &Mount) {
    if &*mount.fs != OVERLAY {
        return;
    }
    let options = info::options(&mount.super_options);
    let mut dirs = options.filter_map(|option| Some(option.strip_prefix(b"upperdir=")?.to_vec()));
    let Some(dir) = dirs.next() else { return };
    // It may have been mounted elsewhere, where this path leads to something else.
    match subject::look(OsStr::from_bytes(&dir)) {
        Ok(root) => {
            let device = device_of(&root).unwrap_or(root.device);
            wanted.private_roots.push((root.ino, number(device)));
        }
        Err(_) => wanted.private = true,
    }
}

/// The mounts of a process's namespace.
fn mountinfo(process: &str) -> anyhow::Result<Vec<Mount>> {
    let path = format!("/proc/{process}/mountinfo");
    let text = fs::read(&path).with_context(|| format!("{path}: the mounts cannot be read"))?;
    let mut names = Names::default();
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| info::line(line, &mut names))
        .collect())
}

/// A device by its name, its numbers, or a path on its file system.
fn device(name: &OsStr) -> anyhow::Result<u32> {
    let numbers = name.to_str().and_then(|name| name.parse().ok());
    let asked = Escaped(name.as_bytes());
    if let Some(device) = numbers {
        let Device { major, minor } = device;
        if major >= 1 << 12 || minor >= 1 << 20 {
            bail!("{asked}: no device has such numbers");
        }
        return Ok(number(device));
    }
    let file = subject::look(name)?;
    if file.is_character {
        bail!(
            "{asked}: it is a character device, which has no file system: name a block device, or \
             a path on the file system"
        );
    }
    if let Some(device) = file.block {
        return Ok(number(device));
    }
    Ok(number(device_of(&file).unwrap_or(file.device)))
}

/// The device of a file's file system: what stat(2) says of some is a part of it (btrfs).
fn device_of(file: &Stat) -> Option<Device> {
    let mounts = mountinfo("self").ok()?;
    let mount = mounts.iter().find(|mount| mount.id == file.mount)?;
    Some(mount.device)
}

/// A device number as the kernel has it, from its parts.
pub fn number(device: Device) -> u32 {
    device.major << 20 | device.minor
}

/// The mount namespaces of a container, and the upper layers of the overlays in them.
fn container(wanted: &mut Wanted, name: &str) -> anyhow::Result<()> {
    let model = Model::of(None, None)?;
    let is_it = |cgroup: u64| {
        model
            .cgroups
            .container(cgroup)
            .is_some_and(|id| id.starts_with(name.as_bytes()) || model.names.get(id) == Some(name))
    };
    let mut namespaces = Vec::new();
    for (_, task) in model.world.tasks().filter(|(_, task)| is_it(task.cgroup)) {
        // It may have ended.
        if let Ok(metadata) = fs::metadata(format!("/proc/{}/ns/mnt", task.tid)) {
            namespaces.push((metadata.ino() as u32, task.tid));
        }
    }
    namespaces.sort_unstable();
    namespaces.dedup_by_key(|(inum, _)| *inum);
    if namespaces.is_empty() {
        return Err(anyhow!(
            "no container {name} is here: nstrace tree shows those that are"
        ));
    }
    for (inum, tid) in namespaces {
        wanted.namespaces.push(inum);
        // It may have ended.
        let mounts = mountinfo(&tid.to_string()).unwrap_or_default();
        mounts.iter().for_each(|mount| upper(wanted, mount));
    }
    Ok(())
}
