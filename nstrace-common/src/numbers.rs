//! The answers of the program that tells whether a number of namespaces is in use.

/// It is not: what had it has died.
pub const FREE: i32 = 1;
/// It is.
pub const IN_USE: i32 = 2;
/// That cannot be told.
pub const UNKNOWN: i32 = 3;
