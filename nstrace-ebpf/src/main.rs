//! The kernel side of nstrace.
//!
//! An operation is gathered in a slot that belongs to the task from its beginning
//! to its end ([`slot`]), and leaves as one record ([`emit`]). The functions on the
//! way set a mark with a time, no more ([`stages`]): what the marks mean is for
//! user space to work out. Births, deaths and cgroups have a ring of their own
//! ([`lives`]), so that a flood of operations cannot push them out.
//!
//! Every probe exists twice, for fentry/fexit and for kprobe/kretprobe, as wrappers
//! of one handler ([`probes`]); what differs between the two is how an argument is
//! had and how memory behind it is read ([`read`]).

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod fail;
mod lives;
mod maps;
mod ops;
mod probes;
mod read;
mod slot;
mod stages;
mod tasks;

/// fentry, kprobe and most helpers are for programs under the GPL only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics: the verifier would find this loop.
    loop {}
}
