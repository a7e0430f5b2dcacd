//! Cases by hand, and against a kernel of a page ([`machine`]).

mod cases;
mod machine;
mod owned;
mod properties;
