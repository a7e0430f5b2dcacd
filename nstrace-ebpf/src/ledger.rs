//! The counts. Which mounts they are of is in [`wanted`]; what is asked of one mount, in [`asked`].

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated::bpf_probe_read_kernel},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use nstrace_common::{
    field::member,
    wire::Head,
    writers::{AccessRecord, FRAMES, Key, Kind, MountRecord, SITES, Settings, Site, Unfiled},
};

use crate::{
    mount, place,
    read::{Entry, Exit, Reader, stack_size},
};

/// Mounts, accesses and deaths. User space sets the size.
#[map]
static ACCESSES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The mounts that the ledger has, by address: since when. User space sets the size.
#[map]
static MOUNTS: HashMap<u64, u64> = HashMap::with_max_entries(1, 0);

/// How often something was done. User space sets the size.
#[map]
static LEDGER: HashMap<Key, u64> = HashMap::with_max_entries(1, 0);

/// What could not be counted there.
#[map]
static UNFILED: Array<Unfiled> = Array::with_max_entries(1, 0);

/// Room for a record, for each CPU and each function apart: two programs may run on one CPU,
/// one of which was preempted, but not two of one function. The last is for deaths.
#[map]
static ROOM: PerCpuArray<MountRecord> = PerCpuArray::with_max_entries(SITES as u32 + 1, 0);

/// What stacks were found to be, by their [`sketch`].
#[map]
static STACKS: HashMap<u64, u64> = HashMap::with_max_entries(65536, 0);

/// Room for what is on a stack, as [`ROOM`].
#[map]
static WORDS: PerCpuArray<[u64; WORDS_LEN]> = PerCpuArray::with_max_entries(SITES as u32, 0);
const WORDS_LEN: usize = 512;
/// So many are looked at in one turn.
const AT_ONCE: usize = 8;

#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings::NONE;

/// Whether accesses are counted: once all programs are attached. Until then half of those of
/// a pair would be, seconds long. In a map of its own, which user space writes.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.counting")]
static mut COUNTING: u32 = 0;

/// Addresses of mounts that the ledger does not have, each where its address points to: most
/// accesses end here. In the map of the zeroed data: no look-up.
#[unsafe(no_mangle)]
static mut OTHERS: [u64; OTHERS_LEN] = [0; OTHERS_LEN];
const OTHERS_LEN: usize = 4096;

/// What a thread last took, where the lower bits of its id point to: what it is to have
/// taken less if that failed. For kprobes.
#[unsafe(no_mangle)]
static mut TAKEN: [Taken; TAKEN_LEN] = [Taken {
    tid: 0,
    key: Key {
        mount: 0,
        since: 0,
        stack: 0,
        site: 0,
        pad: 0,
    },
}; TAKEN_LEN];
const TAKEN_LEN: usize = 1024;

#[derive(Clone, Copy)]
#[repr(C)]
struct Taken {
    tid: u64,
    key: Key,
}

/// A setting.
macro_rules! setting {
    ($member:ident) => {{
        // SAFETY: a static; volatile because it is another value once loaded.
        unsafe { core::ptr::read_volatile(&raw const (*(&raw const SETTINGS)).$member) }
    }};
}

mod asked;
mod wanted;

use wanted::is_wanted;

/// Adds atomically. core has no such operation for this target.
#[inline(always)]
fn add(counter: *mut u64, value: u64) {
    // SAFETY: an aligned u64 in a map; this is BPF_XADD, which every kernel has.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {value}",
            counter = in(reg) counter,
            value = in(reg) value,
        );
    }
}

/// Counts what cannot be counted in the ledger.
macro_rules! unfiled {
    ($member:ident) => {
        if let Some(unfiled) = UNFILED.get_ptr_mut(0) {
            let at = core::mem::offset_of!(Unfiled, $member);
            add(unfiled.cast::<u8>().wrapping_add(at).cast(), 1);
        }
    };
}

#[inline(always)]
fn head(kind: Kind) -> Head {
    Head {
        kind: kind as u32,
        pad: 0,
        // SAFETY: no precondition.
        time: unsafe { bpf_ktime_get_ns() },
    }
}

/// The lower half of an address. The verifier lets nobody shift what it knows as a pointer.
#[inline(always)]
fn low(pointer: u64) -> u64 {
    let low;
    // SAFETY: a move.
    unsafe {
        asm!(
            "w1 = w2",
            in("r2") pointer,
            lateout("r1") low,
            options(pure, nomem, nostack, preserves_flags),
        )
    }
    low
}

/// The address as a number: what the verifier knows as a pointer must not be reckoned with.
#[inline(always)]
fn plain(room: *mut MountRecord, pointer: u64) -> u64 {
    // SAFETY: in a map, of which nobody else has this part.
    unsafe {
        core::ptr::write_volatile(&raw mut (*room).address, pointer);
        core::ptr::read_volatile(&raw const (*room).address)
    }
}

/// Where in [`OTHERS`] an address has its place.
#[inline(always)]
fn other(mount: u64) -> *mut u64 {
    // A `struct mount` takes more than 256 bytes.
    let at = (low(mount) >> 7) as usize & (OTHERS_LEN - 1);
    // SAFETY: in the static.
    unsafe { (&raw mut OTHERS).cast::<u64>().add(at) }
}

/// `int mnt_get_write_access(struct vfsmount *)` has returned.
#[inline(always)]
pub fn took<C: Exit + EbpfContext>(context: &C) {
    if context.ret() as u32 == 0
        && let Some(vfsmount) = context.first_arg()
    {
        count(context, mount::around(vfsmount), Site::Take, 1);
    }
}

/// The same was called.
#[inline(always)]
pub fn takes<C: Entry + EbpfContext>(context: &C) {
    let mount = mount::around(context.arg(0));
    if let Some(key) = count(context, mount, Site::Take, 0) {
        let tid = bpf_get_current_pid_tgid() & u64::from(u32::MAX);
        let taken = taken(tid);
        // SAFETY: in the static.
        unsafe { *taken = Taken { tid, key } };
    }
}

/// It has returned: what failed was not taken.
#[inline(always)]
pub fn takes_not<C: Exit>(context: &C) {
    if context.ret() as u32 == 0 {
        return;
    }
    let tid = bpf_get_current_pid_tgid() & u64::from(u32::MAX);
    // SAFETY: in the static.
    let taken = unsafe { &mut *taken(tid) };
    if taken.tid != tid {
        // Of a mount that is not in the ledger; or another thread was there.
        if taken.tid != 0 {
            unfiled!(untakes);
        }
        return;
    }
    taken.tid = 0;
    let mut key = taken.key;
    key.site = Site::Untake as u32;
    one(&key);
}

#[inline(always)]
fn taken(tid: u64) -> *mut Taken {
    // SAFETY: in the static.
    unsafe {
        (&raw mut TAKEN)
            .cast::<Taken>()
            .add(tid as usize & (TAKEN_LEN - 1))
    }
}

/// A function that gives write access to a mount back was called.
#[inline(always)]
pub fn gives_back<C: Entry + EbpfContext>(context: &C, site: Site) {
    count(context, mount::around(context.arg(0)), site, 0);
}

/// One that gives that of a file back was called. A file that is open for writing has write
/// access for itself, which stays.
#[inline(always)]
pub fn gives_back_file<C: Entry + EbpfContext>(context: &C, site: Site) {
    /// `FMODE_WRITER` of include/linux/fs.h.
    const FMODE_WRITER: u32 = 1 << 16;
    let file = context.arg(0);
    // SAFETY: the function's argument.
    let (mode, vfsmount): (u32, u64) = unsafe {
        (
            C::Args::get(file, member::FileMode),
            C::Args::get(file, member::FileMnt),
        )
    };
    if mode & FMODE_WRITER == 0 {
        count(context, mount::around(vfsmount), site, 0);
    }
}

/// Counts an access, which the kernel has counted already or not.
#[inline(always)]
fn count<C: EbpfContext>(context: &C, mount: u64, site: Site, counted: i32) -> Option<Key> {
    // SAFETY: in the statics.
    if unsafe {
        core::ptr::read_volatile(other(mount)) == mount
            || core::ptr::read_volatile(&raw const COUNTING) == 0
    } {
        return None;
    }
    let room = ROOM.get_ptr_mut(site as u32)?;
    let mount = plain(room, mount);
    let since = since(room, mount, counted)?;
    let access = room.cast::<AccessRecord>();
    let mut key = Key {
        mount,
        since,
        stack: 0,
        site: site as u32,
        pad: 0,
    };
    let sketch = sketch(context, room, site);
    if let Some(stack) = sketch.and_then(|sketch| STACKS.get_ptr(&sketch)) {
        // SAFETY: in the map.
        key.stack = unsafe { *stack };
        if add_one(&key) {
            return Some(key);
        }
    }
    // SAFETY: in the map, of which nobody else has this part; MountRecord is longer.
    unsafe {
        let frames = &mut (*access).frames;
        let len = mount::stack(context, frames);
        key.stack = hash(frames, len);
        if len == 0 {
            unfiled!(stacks);
        } else if let Some(sketch) = sketch {
            // Where there is no room, each stack is walked.
            let _ = STACKS.insert(&sketch, &key.stack, 0);
        }
        if !add_one(&key) {
            first(access, &key, len);
        }
    }
    Some(key)
}

/// A number made of all that may be a return address on the kernel stack, and of its place
/// there: of two stacks that have the same, a walk would find the same functions. It costs a
/// third of a walk. None if the stack is too deep to be looked at.
#[inline(always)]
fn sketch<C: EbpfContext>(context: &C, room: *mut MountRecord, site: Site) -> Option<u64> {
    let words = WORDS.get_ptr_mut(site as u32)?.cast::<[u64; AT_ONCE]>();
    // Below it is what called the program, which is the same always: whole turns end with the stack.
    let from = plain(room, context.as_ptr() as u64) & !(8 * AT_ONCE as u64 - 1);
    let size = stack_size();
    let len = size - (from & (size - 1));
    if len > 8 * WORDS_LEN as u64 {
        return None;
    }
    // SAFETY: the helper writes no more than there is room for.
    if unsafe { bpf_probe_read_kernel(words.cast(), len as u32, from as *const _) } != 0 {
        return None;
    }
    let (mut sketch, mut step) = (len, 0);
    while step < WORDS_LEN / AT_ONCE && step < len as usize / (8 * AT_ONCE) {
        // SAFETY: within the bounds.
        let words = unsafe { words.add(step).cast::<u64>() };
        for at in 0..AT_ONCE {
            // SAFETY: as above; little-endian.
            let (word, high) = unsafe {
                let word = words.add(at);
                (word, core::ptr::read_volatile(word.cast::<u32>().add(1)))
            };
            // x86-64 has the kernel's text, its modules and programs in the last 2 GB.
            if high == u32::MAX {
                // SAFETY: as above.
                let word = unsafe { core::ptr::read_volatile(word) };
                sketch = mixed(sketch, word ^ ((step * AT_ONCE + at) as u64) << 32);
            }
        }
        step += 1;
        // As in `hash`.
        // SAFETY: moves a register to itself.
        unsafe { asm!("{0} = {0}", inout(reg) step) };
    }
    Some(sketch)
}

/// Adds one to what is there.
#[inline(always)]
fn add_one(key: &Key) -> bool {
    match LEDGER.get_ptr_mut(key) {
        Some(count) => {
            add(count, 1);
            true
        }
        None => false,
    }
}

/// Adds one to what is there or not.
#[inline(always)]
fn one(key: &Key) {
    if !add_one(key) && LEDGER.insert(key, &1, u64::from(BPF_NOEXIST)).is_err() && !add_one(key) {
        unfiled!(accesses);
    }
}

/// The first access with that key.
#[inline(always)]
unsafe fn first(access: *mut AccessRecord, key: &Key, len: u32) {
    if LEDGER.insert(key, &1, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU was faster, or there is no room.
        if !add_one(key) {
            unfiled!(accesses);
        }
        return;
    }
    // SAFETY: the caller's room.
    unsafe {
        (*access).head = head(Kind::Access);
        (*access).key = *key;
        (*access).frames_len = len;
        (*access).pad = 0;
        if ACCESSES.output::<AccessRecord>(&*access, 0).is_err() {
            // Without its stack it would say nothing. The next one tries again.
            let _ = LEDGER.remove(key);
            unfiled!(accesses);
        }
    }
}

#[inline(always)]
fn mixed(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// A number made of a stack, which another one has by chance once in 2^64.
#[inline(always)]
fn hash(frames: &[u64; FRAMES], len: u32) -> u64 {
    let (mut hash, mut at) = (0_u64, 0_usize);
    while at < FRAMES && at < len as usize {
        // SAFETY: within the bounds.
        let frame = unsafe { core::ptr::read_volatile(frames.as_ptr().add(at)) };
        hash = mixed(hash, frame);
        at += 1;
        // Else the compiler unrolls the loop, and has no stack for it.
        // SAFETY: moves a register to itself.
        unsafe { asm!("{0} = {0}", inout(reg) at) };
    }
    hash
}

/// Since when the ledger has a mount: from now on, if it is one that it is to have.
#[inline(always)]
fn since(room: *mut MountRecord, mount: u64, counted: i32) -> Option<u64> {
    if let Some(since) = MOUNTS.get_ptr(&mount) {
        // SAFETY: in the map.
        return Some(unsafe { *since });
    }
    if !is_wanted(mount) {
        // What namespace a mount is in can change; what it is else cannot.
        if setting!(namespaces) == 0 {
            // SAFETY: in the static.
            unsafe { core::ptr::write_volatile(other(mount), mount) };
        }
        return None;
    }
    // SAFETY: no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    if MOUNTS.insert(&mount, &now, u64::from(BPF_NOEXIST)).is_err() {
        if let Some(since) = MOUNTS.get_ptr(&mount) {
            // SAFETY: in the map. Another CPU was faster.
            return Some(unsafe { *since });
        }
        unfiled!(mounts);
        return None;
    }
    // SAFETY: in the map, of which nobody else has this part.
    unsafe {
        mount::describe(room, head(Kind::Watched), mount);
        if (*room).ns != 0 && mount::is_on_another(mount) {
            mount::point(&mut (*room).point, &raw mut (*room).pad, mount);
            (*room).pad = 0;
        }
        (*room).since = now;
        (*room).count = mount::writers(mount) - counted;
        (*room).frames_len = 0;
        if ACCESSES.output::<MountRecord>(&*room, 0).is_err() {
            let _ = MOUNTS.remove(&mount);
            unfiled!(mounts);
            return None;
        }
    }
    Some(now)
}

/// `void cleanup_mnt(struct mount *)`, called: nobody else has the mount any more, and its
/// address is free from here on.
#[inline(always)]
pub fn dies<C: Entry + EbpfContext>(context: &C) {
    let mount = context.arg(0);
    let other = other(mount);
    // SAFETY: in the static.
    unsafe {
        if core::ptr::read_volatile(other) == mount {
            core::ptr::write_volatile(other, 0);
        }
    }
    let Some(room) = ROOM.get_ptr_mut(SITES as u32) else {
        return;
    };
    let mount = plain(room, mount);
    let since = match MOUNTS.get_ptr(&mount) {
        // SAFETY: in the map.
        Some(since) => unsafe { *since },
        None => 0,
    };
    let count = mount::writers(mount);
    if since == 0 && count == 0 {
        return;
    }
    let _ = MOUNTS.remove(&mount);
    // SAFETY: in the map, of which nobody else has this part.
    unsafe {
        mount::describe(room, head(Kind::Died), mount);
        (*room).bits = mount::bits_at_death((*room).bits, (*room).flags);
        (*room).since = since;
        (*room).count = count;
        place::was_at(room, mount);
        (*room).frames_len = mount::stack(context, &mut (*room).frames);
        if ACCESSES.output::<MountRecord>(&*room, 0).is_err() {
            unfiled!(deaths);
        }
    }
}
