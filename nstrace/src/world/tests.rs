//! Cases by hand, and against a kernel of a page ([`machine`]).

mod cases;
pub(crate) mod machine;
pub(crate) mod owned;
mod properties;
pub(crate) mod saved;
