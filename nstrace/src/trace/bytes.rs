//! Numbers and bytes behind each other: LEB128, signed numbers in zigzag.

/// Appends a number.
#[inline]
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a difference.
#[inline]
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63).cast_unsigned());
}

/// Appends bytes, with their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a number, one higher, or 0 for none; the highest stands for none too.
pub fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    put(out, value.map_or(0, |value| value.wrapping_add(1)));
}

/// What is still to be read.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// A byte; none at the end.
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A number; none if it is cut, or longer than one can be.
    #[inline]
    pub fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number of 32 bits; none if it is another.
    pub fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// A number or none.
    pub fn option(&mut self) -> Option<Option<u64>> {
        Some(self.number()?.checked_sub(1))
    }

    /// The same of 32 bits.
    pub fn small_option(&mut self) -> Option<Option<u32>> {
        self.option()?.map(u32::try_from).transpose().ok()
    }

    /// Yes or no.
    pub fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// A difference.
    #[inline]
    pub fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Bytes with their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_leb128() {
        // The first is the example that the encyclopaedias have.
        for (bytes, value) in [
            (&[0xe5, 0x8e, 0x26][..], 624_485),
            (&[0x00], 0),
            (&[0x7f], 0x7f),
            (&[0x80, 0x01], 0x80),
        ] {
            assert_eq!(Bytes(bytes).number(), Some(value));
        }
        assert_eq!(Bytes(&[0x80]).number(), None);
        assert_eq!(Bytes(&[0x80; 20]).number(), None);
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(values: Vec<u64>, shift in 0..64) {
            let values: Vec<u64> = values.iter().map(|value| value >> shift).collect();
            let mut out = Vec::new();
            for value in &values {
                put(&mut out, *value);
                put_signed(&mut out, value.cast_signed());
            }
            let mut bytes = Bytes(&out);
            for value in &values {
                prop_assert_eq!(bytes.number(), Some(*value));
                prop_assert_eq!(bytes.signed(), Some(value.cast_signed()));
            }
            prop_assert!(bytes.0.is_empty());
        }
    }
}
