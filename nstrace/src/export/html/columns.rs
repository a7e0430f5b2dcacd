//! Numbers in columns, as the page reads them.
//!
//! What is next to each other in a column is alike, so differences are small, and what
//! compresses finds the same bytes again and again.

use serde_json::{Value, json};

/// The page has numbers of 53 bits. Of a difference there is one bit more, so no number
/// goes further than this: 52 days in ns.
pub const MAX: i64 = 1 << 52;

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is; it has no sign.
    Plain,
    /// With a sign.
    Signed,
    /// As the difference from the one before.
    Delta,
}

/// As what the page keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// A byte.
    U8,
    /// Four bytes.
    U32,
    /// A number of JavaScript.
    F64,
}

/// Numbers of one meaning.
#[derive(Clone, Debug)]
pub struct Column {
    name: &'static str,
    coding: Coding,
    width: Width,
    bytes: Vec<u8>,
    len: u32,
    last: i64,
}

impl Column {
    /// An empty one.
    pub const fn new(name: &'static str, coding: Coding, width: Width) -> Column {
        Column {
            name,
            coding,
            width,
            bytes: Vec::new(),
            len: 0,
            last: 0,
        }
    }

    /// Appends a number. One that is further from zero than the page can tell becomes the
    /// furthest that it can.
    pub fn push(&mut self, number: impl TryInto<i64>) {
        let number = number.try_into().unwrap_or(MAX).clamp(-MAX, MAX);
        self.len += 1;
        match self.coding {
            Coding::Plain => self.varint(number.unsigned_abs()),
            Coding::Signed => self.varint(zigzag(number)),
            Coding::Delta => {
                let difference = number - self.last;
                self.last = number;
                self.varint(zigzag(difference));
            }
        }
    }

    /// Seven bits in each byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What has to be known to read it.
    pub fn description(&self) -> Value {
        let coding = match self.coding {
            Coding::Plain => "plain",
            Coding::Signed => "signed",
            Coding::Delta => "delta",
        };
        let width = match self.width {
            Width::U8 => "u8",
            Width::U32 => "u32",
            Width::F64 => "f64",
        };
        json!([self.name, coding, width, self.len, self.bytes.len()])
    }
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: 300 is 0b10_0101100; -1 is 1, and 1 is 2.
    #[test]
    fn numbers_are_written_seven_bits_at_a_time() {
        let mut plain = Column::new("plain", Coding::Plain, Width::U32);
        plain.push(300_u32);
        plain.push(u64::MAX);
        assert_eq!(plain.bytes()[..2], [0xac, 0x02]);
        assert_eq!(
            plain.bytes()[2..],
            [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x08]
        );
        let mut delta = Column::new("delta", Coding::Delta, Width::F64);
        for number in [5, 4, 5] {
            delta.push(number);
        }
        assert_eq!(delta.bytes(), [10, 1, 2]);
        assert_eq!(
            delta.description().to_string(),
            r#"["delta","delta","f64",3,3]"#
        );
    }
}
