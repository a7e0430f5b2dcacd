//! A path below proc, put together without allocating.

use std::ffi::CStr;

/// Enough for the longest: `4294967295/task/4294967295/ns/pid_for_children`.
const LEN: usize = 64;

/// A C string on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    bytes: [u8; LEN],
    len: usize,
}

impl Text {
    /// An empty one.
    pub fn new() -> Text {
        Text {
            bytes: [0; LEN],
            len: 0,
        }
    }

    /// With some text at its end. What does not fit is left out, and names nothing.
    pub fn text(mut self, text: &str) -> Text {
        for byte in text.bytes() {
            self = self.byte(byte);
        }
        self
    }

    /// With a decimal number at its end.
    pub fn number(self, number: u32) -> Text {
        let above = if number >= 10 {
            self.number(number / 10)
        } else {
            self
        };
        above.byte(b"0123456789"[(number % 10) as usize])
    }

    fn byte(mut self, byte: u8) -> Text {
        // The last byte stays a NUL.
        if self.len + 1 < LEN {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        self
    }

    /// The C string.
    pub fn get(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}
