//! Which mounts the ledger is to have.

use aya_ebpf::{macros::map, maps::HashMap};
use nstrace_common::{
    field::member,
    writers::{FS_NAMES, KERNEL, PRIVATE, Root},
};

use super::SETTINGS;
use crate::{
    mount,
    read::{Raw, Reader},
};

/// Devices of file systems whose mounts the ledger has.
#[map]
static DEVICES: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

/// Mounts that it has, by their ids.
#[map]
static MOUNT_IDS: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

/// Mount namespaces whose mounts it has.
#[map]
static NAMESPACES: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

/// Roots of private mounts that it has.
#[map]
static PRIVATE_ROOTS: HashMap<Root, u8> = HashMap::with_max_entries(64, 0);

/// Whether the ledger is to have a mount.
#[inline(always)]
pub fn is_wanted(mount: u64) -> bool {
    if setting!(all) != 0 {
        return true;
    }
    let bits = mount::bits(mount);
    if bits & KERNEL != 0 {
        return false;
    }
    let file_system = mount::file_system(mount);
    // SAFETY: Raw reads any address.
    let dev: u32 = unsafe { Raw::get(file_system, member::SbDev) };
    if bits & PRIVATE != 0 {
        if setting!(private) != 0 {
            return true;
        }
        if setting!(private_roots) != 0 {
            let root = Root {
                ino: mount::root_ino(mount),
                dev: dev.into(),
            };
            if PRIVATE_ROOTS.get_ptr(&root).is_some() {
                return true;
            }
        }
    }
    if setting!(devices) != 0 && DEVICES.get_ptr(&dev).is_some() {
        return true;
    }
    if setting!(ids) != 0 {
        // SAFETY: Raw reads any address.
        let id: u32 = unsafe { Raw::get(mount, member::MountId) };
        if MOUNT_IDS.get_ptr(&id).is_some() {
            return true;
        }
    }
    if setting!(namespaces) != 0 && NAMESPACES.get_ptr(&mount::namespace(mount)).is_some() {
        return true;
    }
    setting!(fs_len) != 0 && has_wanted_type(file_system)
}

#[inline(always)]
fn has_wanted_type(file_system: u64) -> bool {
    let mut name = [0; 16];
    mount::type_name(file_system, &mut name);
    let len = setting!(fs_len);
    (0..FS_NAMES).any(|at| {
        // SAFETY: a static, as for other settings.
        let wanted =
            unsafe { core::ptr::read_volatile(&raw const (*(&raw const SETTINGS)).fs[at]) };
        (at as u32) < len && words(&wanted) == words(&name)
    })
}

#[inline(always)]
fn words(bytes: &[u8; 16]) -> [u64; 2] {
    // SAFETY: as long, and every bit pattern is a number.
    unsafe { core::mem::transmute(*bytes) }
}
