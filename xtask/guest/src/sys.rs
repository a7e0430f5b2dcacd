//! The system calls as the kernel has them: glibc's wrappers choose another call
//! than the one they are named after, and what we call is what nstrace must report.
//!
//! A result is what the kernel gives: 0 or more, or a negative errno.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_void};

use crate::kinds::{CHILD_SETTID, PARENT_SETTID, THREAD};

/// How a task is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Fork,
    Clone,
    Clone3,
}

impl Call {
    /// As nstrace calls it.
    pub fn name(self) -> &'static str {
        match self {
            Call::Fork => "fork",
            Call::Clone => "clone",
            Call::Clone3 => "clone3",
        }
    }
}

/// `struct clone_args` of include/uapi/linux/sched.h, its first version and the
/// two members that came after.
#[repr(C)]
#[derive(Default)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

fn errno() -> i64 {
    i64::from(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn result(ret: c_long) -> i64 {
    if ret < 0 { -errno() } else { ret }
}

fn fd(ret: c_long) -> io::Result<OwnedFd> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(ret as RawFd) })
}

/// Makes a child with its own memory, which runs `child` and exits with its result.
///
/// The process must have one thread when the child allocates memory: what
/// another thread holds locked would stay so in the child.
pub fn spawn(call: Call, flags: u64, child: impl FnOnce() -> i32) -> i64 {
    let mut tids = [0i32; 2];
    let (to_parent, to_child) = (&raw mut tids[0], &raw mut tids[1]);
    let ret = match call {
        // SAFETY: the child has a copy of our memory.
        Call::Fork => unsafe { libc::syscall(libc::SYS_fork) },
        Call::Clone => {
            let flags = flags | libc::SIGCHLD as u64;
            // SAFETY: as fork; the places for the ids live until the call returns.
            unsafe { libc::syscall(libc::SYS_clone, flags, 0, to_parent, to_child, 0) }
        }
        Call::Clone3 => {
            // A thread has no exit signal.
            let exit_signal = if flags & THREAD != 0 {
                0
            } else {
                libc::SIGCHLD as u64
            };
            let mut args = CloneArgs {
                flags,
                exit_signal,
                ..CloneArgs::default()
            };
            if flags & PARENT_SETTID != 0 {
                args.parent_tid = to_parent as u64;
            }
            if flags & CHILD_SETTID != 0 {
                args.child_tid = to_child as u64;
            }
            return match clone3(&args) {
                0 => exit(child()),
                ret => ret,
            };
        }
    };
    match result(ret) {
        0 => exit(child()),
        ret => ret,
    }
}

/// clone3(2) with exactly these arguments. Returns in the child too.
pub fn clone3(args: &CloneArgs) -> i64 {
    // SAFETY: the caller's arguments give no stack and no CLONE_VM, so that the
    // child has a copy of our memory.
    result(unsafe { libc::syscall(libc::SYS_clone3, args, size_of::<CloneArgs>()) })
}

/// clone(2) with these flags and no exit signal, for calls that must fail.
pub fn clone_refused(flags: u64) -> i64 {
    // SAFETY: a child, should there be one against all expectation, ends at once.
    let ret = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if ret == 0 {
        exit(0);
    }
    result(ret)
}

/// Makes a child that shares our memory while we wait (CLONE_VM and CLONE_VFORK),
/// on a stack of its own, which runs `child` and exits with its result.
pub fn spawn_vm<F: FnMut() -> i32>(flags: u64, mut child: F) -> i64 {
    extern "C" fn run<F: FnMut() -> i32>(child: *mut c_void) -> c_int {
        // SAFETY: the closure below, whose owner waits for us.
        unsafe { (*child.cast::<F>())() }
    }
    const STACK: usize = 256 * 1024;
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let flags = flags as c_int | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack and the closure outlive the child, for we wait for its end.
    let ret = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(run::<F>, top.cast(), flags, (&raw mut child).cast())
    };
    result(c_long::from(ret))
}

/// vfork(2) of a child that exits at once with `code`.
#[cfg(target_arch = "x86_64")]
pub fn vfork(code: u32) -> i64 {
    let ret: i64;
    // SAFETY: the child does not touch the stack that it shares with us: it exits
    // before the block ends.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, {exit}",
            "mov edi, {code:e}",
            "syscall",
            "2:",
            exit = const libc::SYS_exit_group,
            code = in(reg) code,
            inlateout("rax") libc::SYS_vfork => ret,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

/// unshare(2).
pub fn unshare(flags: u64) -> i64 {
    // SAFETY: changes no memory.
    result(unsafe { libc::syscall(libc::SYS_unshare, flags) })
}

/// setns(2).
pub fn setns(fd: RawFd, kinds: u64) -> i64 {
    // SAFETY: changes no memory; a descriptor that is none gives EBADF.
    result(unsafe { libc::syscall(libc::SYS_setns, fd, kinds) })
}

/// pidfd_open(2); `pid` as we see it.
pub fn pidfd_open(pid: i64) -> io::Result<OwnedFd> {
    // SAFETY: changes no memory.
    fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A request of include/uapi/linux/nsfs.h to a namespace's descriptor that gives
/// another one.
fn ns_get(ns: RawFd, number: u64) -> io::Result<OwnedFd> {
    // SAFETY: the request has no argument.
    fd(c_long::from(unsafe { libc::ioctl(ns, 0xb700 | number) }))
}

/// NS_GET_USERNS: the user namespace that owns it.
pub fn ns_owner(ns: &impl AsRawFd) -> io::Result<OwnedFd> {
    ns_get(ns.as_raw_fd(), 1)
}

/// NS_GET_PARENT, of a pid or user namespace.
pub fn ns_parent(ns: &impl AsRawFd) -> io::Result<OwnedFd> {
    ns_get(ns.as_raw_fd(), 2)
}

/// NS_GET_OWNER_UID of a user namespace.
pub fn ns_owner_uid(ns: &impl AsRawFd) -> io::Result<u32> {
    let mut uid = 0u32;
    // SAFETY: the request writes a uid_t.
    let ret = unsafe { libc::ioctl(ns.as_raw_fd(), 0xb704, &raw mut uid) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(uid)
    }
}

/// The inode number of an open file: for a namespace's descriptor its inum.
pub fn inode(file: &impl AsRawFd) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel fills the structure, of which zeroes are a value.
    let (ret, stat) = unsafe {
        (
            libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()),
            stat.assume_init(),
        )
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(stat.st_ino)
    }
}

/// SIOCGSKNS: the net namespace of a socket.
pub fn socket_ns(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: the request has no argument.
    fd(c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), 0x894c)
    }))
}

/// pidfd_getfd(2): a copy of another process's descriptor.
pub fn pidfd_getfd(pidfd: &impl AsRawFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: changes no memory.
    fd(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// A datagram socket of IPv4 in our net namespace.
pub fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: changes no memory.
    fd(c_long::from(unsafe {
        libc::socket(libc::AF_INET, kind, 0)
    }))
}

/// mount(2) of a new instance, or with `MS_BIND` of a file.
pub fn mount(source: &str, target: &str, kind: &str, flags: u64) -> io::Result<()> {
    let (source, target, kind) = (
        CString::new(source)?,
        CString::new(target)?,
        CString::new(kind)?,
    );
    // SAFETY: the words end with a NUL; there is no data.
    let ret = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            std::ptr::null(),
        )
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// umount2(2) with MNT_DETACH: what is mounted below goes too.
pub fn unmount(target: &str) -> io::Result<()> {
    umount(target, libc::MNT_DETACH)
}

/// Unmounts it if nothing uses it.
pub fn unmount_unused(target: &str) -> io::Result<()> {
    umount(target, 0)
}

fn umount(target: &str, flags: c_int) -> io::Result<()> {
    let target = CString::new(target)?;
    // SAFETY: the path ends with a NUL.
    if unsafe { libc::umount2(target.as_ptr(), flags) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Closes every descriptor from 3 on but these. For a child that will not touch the
/// others any more: not even drop them.
pub fn close_others(keep: &[RawFd]) {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if fd > from {
            // SAFETY: nobody uses what is closed, as promised.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = from.max(fd.saturating_add(1));
    }
}

/// Closes a descriptor that nobody will touch any more, not even drop.
pub fn close(fd: RawFd) {
    // SAFETY: as promised.
    unsafe { libc::close(fd) };
}

/// Has the kernel kill us when our parent ends.
pub fn die_with_parent() {
    // SAFETY: changes no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Makes us the parent of those below us whose own parent ends.
pub fn adopt_orphans() {
    // SAFETY: changes no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Lets our children end without being waited for.
pub fn ignore_children() {
    // SAFETY: installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Waits for any child. None if none has ended and we are not to block.
pub fn wait_any(blocks: bool) -> io::Result<Option<i64>> {
    let flags = libc::__WALL | if blocks { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: asks for no status.
        let ret = unsafe { libc::waitpid(-1, std::ptr::null_mut(), flags) };
        let error = io::Error::last_os_error();
        match ret {
            0 => return Ok(None),
            1.. => return Ok(Some(i64::from(ret))),
            _ if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
    }
}

/// Waits until `file` can be read or has ended; false if the time is over.
pub fn is_readable(file: &impl AsRawFd, limit: std::time::Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure, which the kernel fills.
    unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) > 0 }
}

/// Lets us have as many open files as we may.
pub fn raise_file_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure, and reads it again.
    let ret = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// CLOCK_MONOTONIC in ns.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

/// Waits for the end of a child of any kind.
pub fn wait(pid: i64) -> io::Result<End> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel fills `status`.
        let ret = unsafe { libc::waitpid(pid as i32, &raw mut status, libc::__WALL) };
        let error = io::Error::last_os_error();
        if ret >= 0 {
            break;
        } else if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFSIGNALED(status) {
        return Ok(End::Signal(libc::WTERMSIG(status)));
    }
    Ok(End::Code(libc::WEXITSTATUS(status)))
}

/// kill(2).
pub fn kill(pid: i64, signal: i32) -> io::Result<()> {
    // SAFETY: changes no memory.
    match result(c_long::from(unsafe { libc::kill(pid as i32, signal) })) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error as i32)),
    }
}

/// Ends the process without running what is registered to run at its end.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Becomes an open program, without an environment. Returns only if it cannot.
pub fn exec(program: &impl AsRawFd, args: &[&CStr]) -> io::Error {
    let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let none = [std::ptr::null()];
    // SAFETY: both lists end with a null pointer, their words with a NUL.
    unsafe { libc::fexecve(program.as_raw_fd(), pointers.as_ptr(), none.as_ptr()) };
    io::Error::last_os_error()
}

/// A pipe: its reading and its writing end.
pub fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = io::pipe()?;
    Ok((OwnedFd::from(reader).into(), OwnedFd::from(writer).into()))
}

/// Two ends of a connection that keeps the bounds of messages.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel fills the array.
    let ret = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((fd(c_long::from(ends[0]))?, fd(c_long::from(ends[1]))?))
}

/// Sends a descriptor: until the other end receives it, the message alone has the file.
pub fn send_descriptor(socket: BorrowedFd, fd: BorrowedFd) -> io::Result<()> {
    let mut byte = [b'x'];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: byte.len(),
    };
    // Room for one, aligned as a header wants it.
    let mut control = [0_u64; 4];
    let len = size_of::<RawFd>() as u32;
    // SAFETY: all zeroes are a value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: a sum.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(len) } as usize;
    // SAFETY: there is room for a header and a descriptor, and what they point to lives.
    let ret = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write_unaligned(fd.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, 0)
    };
    match ret {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the task a name of at most 15 bytes.
pub fn set_comm(name: &[u8]) {
    let mut buffer = [0u8; 16];
    let len = name.len().min(15);
    buffer[..len].copy_from_slice(&name[..len]);
    // SAFETY: the name ends with a NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, buffer.as_ptr()) };
}

/// The effective uid in our own user namespace.
pub fn effective_uid() -> u32 {
    // SAFETY: has no argument.
    unsafe { libc::geteuid() }
}

/// Sets how nice we are, and what we start, to other processes.
pub fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Becomes that user, without any capability, and stays readable in /proc.
pub fn become_user(uid: u32) -> io::Result<()> {
    let none: *const libc::gid_t = std::ptr::null();
    // SAFETY: system calls without pointers but an empty list. They are made
    // directly, for glibc's would do it in every thread.
    let ret = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, none)
            | libc::syscall(libc::SYS_setresgid, uid, uid, uid)
            | libc::syscall(libc::SYS_setresuid, uid, uid, uid)
            | libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Clears all capabilities from the effective set.
pub fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut data = [0u32; 6];
    // SAFETY: the header and the two structures of three words of version 3.
    let ret = unsafe {
        libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr());
        (data[0], data[3]) = (0, 0);
        libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr())
    };
    if ret == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Memory that children share with us.
pub fn shared<T: Default>() -> io::Result<&'static T> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, aligned to a page, that is never given back.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            size_of::<T>(),
            protection,
            flags,
            -1,
            0,
        );
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        at.cast::<T>().write(T::default());
        Ok(&*at.cast::<T>())
    }
}
