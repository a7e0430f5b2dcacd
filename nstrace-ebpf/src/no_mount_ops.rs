// What the objects have in place of mount operations.

mod mount_ops {
    /// The current task is in no operation.
    #[inline(always)]
    pub fn clear() {}
}
