//! Where a mount was: when it dies, it is on no path any more. One that has writers when it is
//! unmounted is remembered from there.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::map,
    maps::{Array, LruHashMap},
};
use nstrace_common::{
    field::member,
    writers::{MountRecord, PATH},
};

use crate::{
    mount,
    read::{Entry, Raw, Reader},
};

/// Where a mount was.
#[repr(C)]
struct Place {
    unique: u64,
    id: u32,
    ns: u32,
    point: [u8; PATH],
    /// To work in.
    length: u32,
    pad: u32,
}

/// Mounts that had writers when they were unmounted, by their address.
#[map]
static UNMOUNTED: LruHashMap<u64, Place> = LruHashMap::with_max_entries(256, 0);

/// Where one is put together: whoever unmounts has namespace_sem for himself.
#[map]
static PLACE: Array<Place> = Array::with_max_entries(1, 0);

/// `void umount_tree(struct mount *, enum umount_tree_flags)`, called: it is in its namespace
/// yet.
#[inline(always)]
pub fn umount_tree<C: Entry>(context: &C) {
    let address = context.arg(0);
    let ns = mount::namespace(address);
    if ns == 0 || !mount::is_on_another(address) || mount::writers(address) == 0 {
        return;
    }
    let Some(place) = PLACE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: of a map; Raw reads any address.
    unsafe {
        (*place).unique = mount::unique::<Raw>(address);
        (*place).id = Raw::get(address, member::MountId);
        (*place).ns = ns;
        mount::point(&mut (*place).point, &raw mut (*place).length, address);
        let _ = UNMOUNTED.insert(&address, &*place, 0);
    }
}

/// Adds where a mount was when it was unmounted, if that is remembered.
///
/// # Safety
///
/// `record` must be in a map, and that of the mount.
#[inline(always)]
pub unsafe fn was_at(record: *mut MountRecord, address: u64) {
    let Some(place) = UNMOUNTED.get_ptr(&address) else {
        return;
    };
    // SAFETY: of a map; the record is the caller's.
    unsafe {
        if (*place).id == (*record).id && (*place).unique == (*record).unique {
            (*record).ns = (*place).ns;
            let to = (&raw mut (*record).point).cast();
            bpf_probe_read_kernel(to, PATH as u32, (&raw const (*place).point).cast());
        }
    }
    let _ = UNMOUNTED.remove(&address);
}
