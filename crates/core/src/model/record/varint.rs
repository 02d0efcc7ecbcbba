//! Variable-length integers: seven bits a byte, the lowest first.

/// Appends `value`: one byte below 128, at most ten.
#[inline]
pub(super) fn push(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns the number of bytes that [`push`] appends.
#[inline]
pub(super) fn size(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Takes a value off the input. None if the input ends within it, or if it has more than 64 bits.
#[inline]
pub(super) fn take(input: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        *input = rest;
        return Some(u64::from(first));
    }
    take_long(input)
}

fn take_long(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7F);
        let shifted = bits << shift;
        if shifted >> shift != bits {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// As [`take`], for a length.
#[inline]
pub(super) fn take_len(input: &mut &[u8]) -> Option<usize> {
    take(input).and_then(|value| usize::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_return_as_they_were_pushed(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            push(&mut bytes, value);
            prop_assert_eq!(bytes.len(), size(value));
            let mut input = bytes.as_slice();
            prop_assert_eq!(take(&mut input), Some(value));
            prop_assert!(input.is_empty());
            prop_assert_eq!(take(&mut &bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn value_of_more_than_64_bits_is_refused() {
        assert_eq!(take(&mut [0xFF; 9].as_slice()), None);
        let mut largest = vec![0xFF; 9];
        largest.push(1);
        assert_eq!(take(&mut largest.as_slice()), Some(u64::MAX));
        largest[9] = 2;
        assert_eq!(take(&mut largest.as_slice()), None);
    }
}
