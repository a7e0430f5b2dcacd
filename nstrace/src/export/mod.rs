//! A recording as something that other programs read.

pub mod html;
