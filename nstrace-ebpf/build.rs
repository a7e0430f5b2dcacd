//! Tells the linker to clear and copy memory by plain stores. As it is, it leaves even 16
//! bytes to a loop over bytes.

fn main() {
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    println!("cargo:rerun-if-changed=build.rs");
}
