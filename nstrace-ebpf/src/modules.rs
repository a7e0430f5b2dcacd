// What the objects have in common: everything.

mod emit;
mod fail;
mod lives;
mod maps;
#[allow(dead_code, reason = "shared with the other objects")]
mod mount;
mod namespaces;
mod numbers;
mod ops;
mod place;
#[macro_use]
mod probes;
mod read;
mod slot;
mod stages;
mod stalls;
mod tasks;
mod unbalanced;

/// fentry, kprobe and most helpers are for programs under the GPL only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics: the verifier would find this loop.
    loop {}
}
