//! The ledger of write access to mounts, for `nstrace writers`: an object of its own, which
//! nobody else loads.
//!
//! It counts how often write access to a mount was taken and given back, by kernel stack.
//! There is no state but the counts: which access belongs to which is for user space to
//! work out, from what the stacks have in common. The first access with a stack is sent with
//! it, once; from then on an addition is all there is.
//!
//! Write access is taken in one function. It is given back in four, since the compiler puts
//! the same decrement into each; one may call another all the same. All four are counted, and
//! user space leaves out the one that another called, which its stack tells.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// See `main.rs`: this object does not read the current task.
const TASK_BTF: bool = false;

#[allow(dead_code, reason = "shared with the other objects")]
mod mount;
#[allow(dead_code, reason = "shared with the other objects")]
mod read;

mod ledger;
mod place;

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use nstrace_common::writers::Site;

use ledger::{gives_back, gives_back_file, takes, takes_not, took};
use read::Fexit;

/// A handler at the entry of a function.
macro_rules! entry {
    ($fentry:ident, $kprobe:ident, $handler:expr) => {
        #[fentry]
        fn $fentry(context: FEntryContext) -> u32 {
            ($handler)(&context);
            0
        }
        #[kprobe]
        fn $kprobe(context: ProbeContext) -> u32 {
            ($handler)(&context);
            0
        }
    };
}

/// Where write access is taken: its handlers at the return, and at the entry for kprobes.
macro_rules! takes {
    ($fexit:ident, $kprobe:ident, $kretprobe:ident) => {
        #[fexit]
        fn $fexit(context: FExitContext) -> u32 {
            took(&Fexit::<1>(context));
            0
        }
        #[kprobe]
        fn $kprobe(context: ProbeContext) -> u32 {
            takes(&context);
            0
        }
        #[kretprobe]
        fn $kretprobe(context: RetProbeContext) -> u32 {
            takes_not(&context);
            0
        }
    };
}

entry!(umount_tree_fentry, umount_tree_kprobe, place::umount_tree);
entry!(cleanup_mnt_fentry, cleanup_mnt_kprobe, ledger::dies);
takes!(
    mnt_get_write_access_fexit,
    mnt_get_write_access_kprobe,
    mnt_get_write_access_kretprobe
);
takes!(
    __mnt_want_write_fexit,
    __mnt_want_write_kprobe,
    __mnt_want_write_kretprobe
);
entry!(mnt_drop_write_fentry, mnt_drop_write_kprobe, |c| {
    gives_back(c, Site::Drop)
});
entry!(
    mnt_put_write_access_fentry,
    mnt_put_write_access_kprobe,
    |c| gives_back(c, Site::Put)
);
entry!(__mnt_drop_write_fentry, __mnt_drop_write_kprobe, |c| {
    gives_back(c, Site::Put)
});
entry!(
    mnt_drop_write_file_fentry,
    mnt_drop_write_file_kprobe,
    |c| gives_back_file(c, Site::DropFile)
);
entry!(
    mnt_put_write_access_file_fentry,
    mnt_put_write_access_file_kprobe,
    |c| gives_back_file(c, Site::PutFile)
);
entry!(
    __mnt_drop_write_file_fentry,
    __mnt_drop_write_file_kprobe,
    |c| gives_back_file(c, Site::PutFile)
);

/// fentry, kprobe and most helpers are for programs under the GPL only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics: the verifier would find this loop.
    loop {}
}
