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
    #[inline(always)]
    pub fn number(&mut self) -> Option<u64> {
        match *self.0 {
            [a @ 0..0x80, ref rest @ ..] => {
                self.0 = rest;
                Some(u64::from(a))
            }
            [a, b @ 0..0x80, ref rest @ ..] => {
                self.0 = rest;
                Some(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => self.long_number(),
        }
    }

    /// The same of three bytes or more: the bits of up to 8 are moved together at once.
    fn long_number(&mut self) -> Option<u64> {
        let Some((eight, rest)) = self.0.split_first_chunk() else {
            return self.number_by_bytes(0, 0);
        };
        let word = u64::from_le_bytes(*eight);
        let ends = !word & 0x8080_8080_8080_8080;
        let own = ends ^ ends.wrapping_sub(1);
        let sevens = word & own & 0x7f7f_7f7f_7f7f_7f7f;
        let pairs = sevens & 0x007f_007f_007f_007f | (sevens & 0x7f00_7f00_7f00_7f00) >> 1;
        let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
        let value = fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4;
        if ends == 0 {
            self.0 = rest;
            return self.number_by_bytes(value, 56);
        }
        let len = ends.trailing_zeros() as usize / 8 + 1;
        self.0 = self.0.get(len..)?;
        Some(value)
    }

    /// The same one by one: at the end, and what is longer than 8 bytes.
    fn number_by_bytes(&mut self, mut value: u64, first: usize) -> Option<u64> {
        for shift in (first..64).step_by(7) {
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
        assert_eq!(Bytes(&[0xff; 7]).number(), None);
        assert_eq!(Bytes(&[0xff; 8]).number(), None);
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

        #[test]
        fn any_bytes_are_the_same_numbers_read_at_once_and_one_by_one(all: Vec<u8>) {
            let (mut at_once, mut one_by_one) = (Bytes(&all), Bytes(&all));
            while !one_by_one.0.is_empty() {
                let number = one_by_one.number_by_bytes(0, 0);
                prop_assert_eq!(at_once.number(), number);
                if number.is_none() {
                    break;
                }
                prop_assert_eq!(at_once.0, one_by_one.0);
            }
        }
    }
}
