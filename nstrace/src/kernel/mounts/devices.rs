//! What the kernel itself has of file systems and block devices: loop devices, swap, and
//! devices that are made of others.

use std::{
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
};

use crate::mounts::{
    Device, info,
    who::{Loop, Part, Swap},
};

/// The loop devices that have a file.
pub fn loops() -> Vec<Loop> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let loops = entries.filter(|entry| entry.file_name().as_bytes().starts_with(b"loop"));
    let mut loops: Vec<Loop> = loops
        .filter_map(|entry| {
            // From the root of the namespace; a newline ends it.
            let mut file = fs::read(entry.path().join("loop/backing_file")).ok()?;
            file.pop_if(|last| *last == b'\n');
            Some(Loop {
                name: entry.file_name().into_vec().into(),
                device: device(&entry.path())?,
                file: file.into(),
            })
        })
        .collect();
    loops.sort_unstable_by_key(|one| one.device);
    loops
}

/// The files and devices that hold swapped memory.
pub fn swaps() -> Vec<Swap> {
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(|byte| byte.is_ascii_whitespace()).next());
    let paths = paths.filter(|path| !path.is_empty()).map(info::unescape);
    paths
        .map(|path| {
            use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
            let found = fs::symlink_metadata(std::ffi::OsStr::from_bytes(&path));
            let block = found
                .ok()
                .filter(|found| found.file_type().is_block_device());
            Swap {
                device: block.map(|found| Device {
                    major: libc::major(found.rdev()),
                    minor: libc::minor(found.rdev()),
                }),
                path: path.into(),
            }
        })
        .collect()
}

/// A block device, its partitions, and what is made of these: volumes, arrays, mappings.
pub fn parts(first: Device) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut left = vec![first];
    while let Some(device) = left.pop() {
        if parts.iter().any(|part| part.device == device) {
            continue;
        }
        let dir = Path::new("/sys/dev/block").join(device.to_string());
        let name = fs::read_link(&dir).ok();
        let name = name.as_ref().and_then(|path| path.file_name());
        parts.push(Part {
            device,
            name: name.map_or(&b""[..], |name| name.as_bytes()).into(),
        });
        let inside = fs::read_dir(&dir).into_iter().flatten().flatten();
        let partitions = inside.filter(|entry| entry.path().join("partition").exists());
        let above = fs::read_dir(dir.join("holders"));
        let above = above.into_iter().flatten().flatten();
        left.extend(
            partitions
                .chain(above)
                .filter_map(|entry| self::device(&entry.path())),
        );
    }
    parts
}

/// Whether there is such a block device.
pub fn is_block(device: Device) -> bool {
    Path::new("/sys/dev/block")
        .join(device.to_string())
        .exists()
}

/// The number of a device of sysfs.
fn device(dir: &Path) -> Option<Device> {
    let text = fs::read_to_string(dir.join("dev")).ok()?;
    text.trim_end().parse().ok()
}
