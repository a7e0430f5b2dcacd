//! What the tests are made of: a running nstrace, its lines, and their comparison
//! with a book.

pub mod against;
pub mod compare;
pub mod held;
pub mod kernel_log;
pub mod line;
pub mod lives;
pub mod module;
pub mod report;
pub mod stages;
pub mod tracer;
pub mod tree;
pub mod truth;
pub mod watch;
