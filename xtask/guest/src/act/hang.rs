//! An operation that hangs in the kernel for as long as we like: a clone writes
//! its pidfd to a page that userfaultfd has, and waits there until we fill it.

use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow, ensure};

use crate::kinds::{NEWIPC, NEWUTS, PIDFD};
use crate::procfs::Procfs;
use crate::sys::{self, CloneArgs};

const PAGE: usize = 4096;

// include/uapi/linux/userfaultfd.h
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;

/// The flags of the clone that hangs.
pub const FLAGS: u64 = NEWUTS | NEWIPC | PIDFD;

/// A page that is filled only by [`Page::fill`].
struct Page {
    address: u64,
    faults: OwnedFd,
}

impl Page {
    fn new() -> Result<Self> {
        // SAFETY: changes no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        ensure!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor, which nobody else owns.
        let faults = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        ensure!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            io::Error::last_os_error()
        );
        let page = Page {
            address: at as u64,
            faults,
        };
        page.request(UFFDIO_API, &mut [UFFD_API, 0, 0, 0])?;
        let mut range = [page.address, PAGE as u64, REGISTER_MODE_MISSING, 0];
        page.request(UFFDIO_REGISTER, &mut range)?;
        Ok(page)
    }

    fn request(&self, number: u64, words: &mut [u64; 4]) -> Result<()> {
        // SAFETY: the structures of these requests have at most four words.
        let ret = unsafe { libc::ioctl(self.faults.as_raw_fd(), number, words.as_mut_ptr()) };
        ensure!(
            ret == 0,
            "userfaultfd, request {number:#x}: {}",
            io::Error::last_os_error()
        );
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        self.request(UFFDIO_ZEROPAGE, &mut [self.address, PAGE as u64, 0, 0])
    }
}

/// Hangs in a clone until a line comes on stdin. Prints the thread that hangs,
/// and in the end what the clone gave.
pub fn run() -> Result<()> {
    sys::set_comm(b"hang");
    let page = Page::new()?;
    let ret = std::thread::scope(|scope| {
        let hangs = scope.spawn(|| hang(page.address));
        let line = io::stdin().lock().lines().next();
        page.fill()?;
        line.context("stdin is closed")??;
        hangs
            .join()
            .map_err(|_| anyhow!("the thread that hangs panicked"))?
    })?;
    println!("{ret}");
    Ok(())
}

fn hang(address: u64) -> Result<i64> {
    let (_, tid) = Procfs::open()?.own_ids()?;
    println!("{tid}");
    io::stdout().flush()?;
    let signal = libc::SIGCHLD as u64;
    let args = CloneArgs {
        flags: FLAGS,
        pidfd: address,
        exit_signal: signal,
        ..CloneArgs::default()
    };
    match sys::clone3(&args) {
        0 => sys::exit(0),
        ret => {
            ensure!(ret > 0, "clone3: errno {}", -ret);
            sys::wait(ret)?;
            Ok(ret)
        }
    }
}
