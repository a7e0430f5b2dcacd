// What the objects have in place of mount operations.

mod mount_ops {
    /// A task exits.
    #[inline(always)]
    pub fn exits() {}
}
