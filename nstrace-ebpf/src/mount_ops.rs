//! Mount operations: the system calls that change the tree of mounts.
//!
//! What there is to know of one comes from the functions on its way: paths as the kernel
//! found them, the mount that it is about, mounts that were made (each in alloc_vfsmnt, a
//! copy on behalf of clone_mnt) and taken away, and what of that propagation did. It is
//! gathered in a map by thread. Such operations are rare, and long enough that a hash map
//! costs nothing beside them; who copies a namespace of ten thousand mounts makes a look-up
//! for each.
//!
//! They are in an object of their own with all the others, which is taken if mount operations
//! are asked for: to open an object takes longer for each program in it. What they have in
//! common is in functions that are called, not inlined.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::bpf_probe_read_user,
    },
    macros::map,
    maps::HashMap,
};
use nstrace_common::{
    field::member,
    kind::Kind,
    mount_ops::{BIRTHS, Birth, BirthsRecord, Call, FS, GIVEN, IS_POWERLESS, MountOpRecord},
    wire::RecordKind,
};

use crate::{
    emit,
    maps::{EVENTS, config},
    ops::wanted,
    read::{Entry, Exit, Raw, Reader, has, may_skip, raw_current, user_regs},
    tasks,
};

mod found;
pub mod way;

use found::{about, descriptor, newest, user_str};

/// What is gathered about one operation.
#[repr(C)]
pub struct Gathered {
    record: MountOpRecord,
    births: BirthsRecord,
    list: [Birth; BIRTHS],
    /// From here on for the kernel side alone: the mount that the next one is a copy of.
    cloned: Birth,
    /// The mount that it is about, or else the first that it made.
    mount: u64,
    /// Where something is to be mounted.
    target_mount: u64,
    target_dentry: u64,
    /// The list of what is taken away.
    taken: u64,
    /// How long it is, and how long it was.
    taken_now: u32,
    taken_before: u32,
    /// Where the caller has the paths.
    source_at: u64,
    target_at: u64,
    /// Not 0 within propagate_mnt.
    propagating: u32,
    /// Explicit padding.
    pad: u32,
}

/// The mount operations in flight, by thread.
#[map]
static MOUNT_OPS: HashMap<u32, Gathered> = HashMap::with_max_entries(MOST, 0);

/// So many can be in flight at once. Beyond that one is counted as lost.
const MOST: u32 = 512;

/// As an operation begins.
static NEW: Gathered = {
    // SAFETY: numbers and arrays of them.
    unsafe { core::mem::zeroed() }
};

const AT_FDCWD: i32 = -100;
/// From include/uapi/linux/mount.h.
const MS_REMOUNT: u64 = 1 << 5;
const MS_BIND: u64 = 1 << 12;
const MS_MOVE: u64 = 1 << 13;
/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE` and `MS_SHARED`.
const MS_PROPAGATION: u64 = 15 << 17;
/// `OPEN_TREE_CLONE`, and `OPEN_TREE_NAMESPACE` from v7.0.
const OPEN_TREE_MAKES: u64 = 3;
/// `FSCONFIG_CMD_CREATE`; commands below it set an option.
const FSCONFIG_CMD_CREATE: u64 = 6;
/// From include/linux/mount.h.
const MNT_LOCKED: u32 = 0x80_0000;

/// The operation that the current task is in.
#[inline(always)]
fn mine() -> Option<&'static mut Gathered> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: the map lives as long as the program, and the element is the task's own.
    MOUNT_OPS.get_ptr_mut(&tid).map(|op| unsafe { &mut *op })
}

/// The same if it is one of this call. Of another one the end was missed.
#[inline(always)]
fn mine_of(call: u32) -> Option<&'static mut Gathered> {
    let op = mine()?;
    if u32::from(op.record.call) != call {
        clear();
        return None;
    }
    Some(op)
}

/// Whether operations of this call of the current task are asked for.
#[inline(always)]
fn asked_for(call: u32) -> bool {
    config!(kinds) & (1 << Kind::Mnt as u32) != 0 && wanted(1 << ((15 + call) & 31))
}

/// An operation of the current task begins.
#[inline(always)]
fn new(call: u32) -> Option<&'static mut Gathered> {
    if !asked_for(call) {
        clear();
        return None;
    }
    let ids = bpf_get_current_pid_tgid();
    let tid = ids as u32;
    if MOUNT_OPS.get_ptr(&tid).is_some() {
        // Its end was missed.
        emit::count_lost(RecordKind::MountOp as u32);
    }
    if MOUNT_OPS.insert(&tid, &NEW, 0).is_err() {
        // Where beginnings can be missed, its end counts it.
        if !may_skip() {
            emit::count_lost(RecordKind::MountOp as u32);
        }
        return None;
    }
    let op = mine()?;
    let record = &mut op.record;
    // SAFETY: no precondition; Raw reads any address.
    unsafe {
        record.start = bpf_ktime_get_ns();
        record.cgroup = bpf_get_current_cgroup_id();
        let task = raw_current();
        record.comm = tasks::bytes(tasks::comm::<Raw>(task));
        let cred: u64 = Raw::get(task, member::TaskCred);
        record.uid = Raw::get(cred, member::CredUid);
        record.cap_effective = Raw::get(cred, member::CredCapEffective);
        let user: u64 = Raw::get(cred, member::CredUserNs);
        record.user = Raw::get(user, member::UserInum);
        let ns = caller_ns();
        record.caller_ns = Raw::get(ns, member::MntInum);
        if has(member::MntOwner) {
            let owner: u64 = Raw::get(ns, member::MntOwner);
            record.owner = Raw::get(owner, member::UserInum);
            if is_powerless(owner, user, record.cap_effective) {
                record.found = IS_POWERLESS;
            }
        }
    }
    record.pid = (ids >> 32) as u32;
    record.tid = tid;
    record.call = call as u8;
    record.source_fd = AT_FDCWD;
    record.target_fd = AT_FDCWD;
    Some(op)
}

/// Whether capabilities in one user namespace do not make the caller an administrator of
/// another, the owner: security/commoncap.c, cap_capable. Who made a namespace next below
/// the caller's has all in it; whether it is the caller is not looked at.
#[inline(always)]
unsafe fn is_powerless(owner: u64, user: u64, capabilities: u64) -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    let mut ns = owner;
    for _ in 0..LEVELS {
        if ns == user {
            return capabilities >> CAP_SYS_ADMIN & 1 == 0;
        }
        // SAFETY: Raw reads any address.
        let parent: u64 = unsafe { Raw::get(ns, member::UserParent) };
        if parent == 0 {
            return true;
        }
        if parent == user {
            return false;
        }
        ns = parent;
    }
    false
}

/// User namespaces nest so deep: kernel/user_namespace.c, create_user_ns.
const LEVELS: usize = 34;

/// The mount namespace of the current task.
#[inline(always)]
fn caller_ns() -> u64 {
    // SAFETY: Raw reads any address.
    unsafe {
        let nsproxy: u64 = Raw::get(raw_current(), member::TaskNsproxy);
        Raw::get(nsproxy, member::NsproxyMnt)
    }
}

/// A system call begins: `long sys_*(const struct pt_regs *regs)`.
#[inline(always)]
pub fn call<C: Entry>(context: &C, call: Call) {
    begin(call as u32, context.arg(0));
}

/// It returns.
#[inline(always)]
pub fn call_ret<C: Exit>(context: &C, call: Call) {
    finish(call as u32, context.ret());
}

/// An argument of a system call.
macro_rules! arg {
    ($regs:ident, $register:ident) => {
        // SAFETY: Raw reads any address.
        unsafe { Raw::at::<u64>($regs, core::mem::offset_of!(pt_regs, $register) as u64) }
    };
}

#[inline(never)]
fn begin(call: u32, regs: u64) -> u32 {
    if call == Call::OpenTree as u32 || call == Call::OpenTreeAttr as u32 {
        if arg!(regs, rdx) & OPEN_TREE_MAKES == 0 {
            clear();
            return 0;
        }
    }
    let Some(op) = new(call) else { return 0 };
    let Elsewhere { attributes, fs } = arguments(op, call, regs);
    given(op);
    let record = &mut op.record;
    // SAFETY: the helpers check the user's memory.
    unsafe {
        if fs != 0 {
            user_str(&mut record.fs, fs);
        }
        if attributes != 0 {
            // struct mount_attr { __u64 attr_set, attr_clr, propagation, userns_fd; }
            let mut words = [0_u64; 3];
            bpf_probe_read_user(
                words.as_mut_ptr().cast(),
                size_of_val(&words) as u32,
                attributes as *const _,
            );
            [record.attr_set, record.attr_clear, record.propagation] = words;
        }
    }
    if call == Call::MountSetattr as u32 && op.record.target_len <= 1 && op.record.target_fd >= 0 {
        descriptor(op);
    }
    0
}

/// What the caller has elsewhere, beside paths; 0 for nothing.
struct Elsewhere {
    /// A `struct mount_attr`.
    attributes: u64,
    /// The type of a file system.
    fs: u64,
}

/// Notes the arguments of a system call.
#[inline(always)]
fn arguments(op: &mut Gathered, call: u32, regs: u64) -> Elsewhere {
    let first = arg!(regs, rdi);
    let second = arg!(regs, rsi);
    let third = arg!(regs, rdx);
    let fourth = arg!(regs, r10);
    let fifth = arg!(regs, r8);
    let record = &mut op.record;
    let (mut attributes, mut fs) = (0, 0);
    const MOUNT: u32 = Call::Mount as u32;
    const UMOUNT: u32 = Call::Umount as u32;
    const PIVOT_ROOT: u32 = Call::PivotRoot as u32;
    const MOVE_MOUNT: u32 = Call::MoveMount as u32;
    const OPEN_TREE: u32 = Call::OpenTree as u32;
    const OPEN_TREE_ATTR: u32 = Call::OpenTreeAttr as u32;
    const FSMOUNT: u32 = Call::Fsmount as u32;
    const MOUNT_SETATTR: u32 = Call::MountSetattr as u32;
    const FSOPEN: u32 = Call::Fsopen as u32;
    const FSPICK: u32 = Call::Fspick as u32;
    const FSCONFIG: u32 = Call::Fsconfig as u32;
    match call {
        MOUNT => {
            (op.source_at, op.target_at, fs) = (first, second, third);
            record.flags = fourth;
        }
        UMOUNT => {
            op.target_at = first;
            record.flags = u64::from(second as u32);
        }
        PIVOT_ROOT => (op.source_at, op.target_at) = (first, second),
        MOVE_MOUNT => {
            (record.source_fd, op.source_at) = (first as i32, second);
            (record.target_fd, op.target_at) = (third as i32, fourth);
            record.flags = u64::from(fifth as u32);
        }
        OPEN_TREE | OPEN_TREE_ATTR => {
            (record.source_fd, op.source_at) = (first as i32, second);
            record.flags = u64::from(third as u32);
            if call == OPEN_TREE_ATTR {
                attributes = fourth;
            }
        }
        FSMOUNT => {
            record.source_fd = first as i32;
            record.flags = u64::from(second as u32);
            record.attr_set = u64::from(third as u32);
        }
        MOUNT_SETATTR => {
            (record.target_fd, op.target_at) = (first as i32, second);
            record.flags = u64::from(third as u32);
            attributes = fourth;
        }
        FSOPEN => {
            fs = first;
            record.flags = u64::from(second as u32);
        }
        FSPICK => {
            (record.target_fd, op.target_at) = (first as i32, second);
            record.flags = u64::from(third as u32);
        }
        FSCONFIG => {
            record.source_fd = first as i32;
            record.flags = u64::from(second as u32);
            op.source_at = third;
        }
        _ => {}
    }
    Elsewhere { attributes, fs }
}

/// Reads the paths as the caller gives them, unless they have been read. What is not in
/// memory yet cannot be read at first; what is no path, never.
#[inline(never)]
fn given(op: &mut Gathered) -> u32 {
    let record = &mut op.record;
    // SAFETY: the helpers check the user's memory.
    unsafe {
        if record.source_len == 0 && op.source_at != 0 {
            record.source_len = user_str(&mut record.source, op.source_at);
        }
        if record.target_len == 0 && op.target_at != 0 {
            record.target_len = user_str(&mut record.target, op.target_at);
        }
    }
    0
}

/// Ends an operation, and sends it.
#[inline(never)]
fn finish(call: u32, ret: u64) -> u32 {
    let ret = ret as i64;
    let Some(op) = mine_of(call) else {
        if may_skip() && is_one(call, ret) && asked_for(call) {
            emit::count_lost(RecordKind::MountOp as u32);
        }
        return 0;
    };
    if is_option(call, op.record.flags, ret) {
        return forget();
    }
    given(op);
    op.record.ret = ret;
    if ret < 0 {
        op.record.made = 0;
        op.record.made_by_propagation = 0;
        op.births.len = 0;
    } else {
        if call == Call::Mount as u32 && op.mount == 0 && op.record.flags & MS_MOVE != 0 {
            op.mount = newest(op.target_mount, op.target_dentry);
        }
        if op.mount != 0 && call != Call::Umount as u32 {
            about(op, op.mount);
        }
        flush(op);
    }
    op.record.head = emit::head(RecordKind::MountOp);
    if reported(&op.record) {
        // SAFETY: a record, whole.
        unsafe {
            emit::send(
                &EVENTS,
                RecordKind::MountOp,
                &raw const op.record,
                size_of::<MountOpRecord>(),
            )
        };
    }
    forget()
}

/// The current task is in no operation any more.
fn forget() -> u32 {
    let tid = bpf_get_current_pid_tgid() as u32;
    let _ = MOUNT_OPS.remove(&tid);
    0
}

/// Whether a call of fsconfig did no more than set an option.
#[inline(always)]
fn is_option(call: u32, command: u64, ret: i64) -> bool {
    call == Call::Fsconfig as u32 && command < FSCONFIG_CMD_CREATE && ret >= 0
}

/// Whether a system call that ends is an operation, by its arguments.
#[inline(always)]
fn is_one(call: u32, ret: i64) -> bool {
    // SAFETY: the registers of the current task.
    let regs = user_regs();
    if call == Call::OpenTree as u32 || call == Call::OpenTreeAttr as u32 {
        return arg!(regs, rdx) & OPEN_TREE_MAKES != 0;
    }
    !is_option(call, u64::from(arg!(regs, rsi) as u32), ret)
}

#[inline(always)]
fn reported(record: &MountOpRecord) -> bool {
    if config!(outcome) == 0 {
        return true;
    }
    (config!(failed) == 0 || record.ret < 0)
        && record.head.time - record.start >= config!(slower_than)
}

/// Whether births are told: with filters on how an operation ends it would be too early.
#[inline(always)]
fn tells_births() -> bool {
    config!(failed) == 0 && config!(slower_than) == 0
}

/// Sends the births that have gathered.
#[inline(never)]
fn flush(op: &mut Gathered) -> u32 {
    let len = (op.births.len as usize).min(BIRTHS);
    if len == 0 {
        return 0;
    }
    let births = &mut op.births;
    births.head = emit::head(RecordKind::MountBirths);
    births.start = op.record.start;
    births.pid = op.record.pid;
    births.tid = op.record.tid;
    births.call = u32::from(op.record.call);
    births.comm = op.record.comm;
    let bytes = size_of::<BirthsRecord>() + len * size_of::<Birth>();
    // SAFETY: the list follows the record.
    unsafe {
        emit::send(
            &EVENTS,
            RecordKind::MountBirths,
            &raw const op.births,
            bytes,
        )
    };
    op.births.len = 0;
    0
}

/// Says that the current task is in no operation: if it seems to be, the end was missed.
#[inline(always)]
pub fn clear() {
    if mine().is_some() {
        emit::count_lost(RecordKind::MountOp as u32);
        forget();
    }
}

const _: () = assert!(FS == 32 && GIVEN == 256);
