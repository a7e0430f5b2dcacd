//! The answers of the program that tells which slots have operations that hang.

/// How many slots are looked at in one run.
pub const LOOKED_AT: usize = 256;

/// None of them.
pub const NONE: i32 = -1;

/// No operation is in flight.
pub const IDLE: i32 = -2;
