//! Writes protocol buffers: the wire format of proto3, as far as OTLP needs it.

/// A message that is being written. Fields with their default value are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message(Vec<u8>);

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

// === impl Message ===

impl Message {
    /// Returns the bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Writes an `int32`, `int64`, `uint32`, `uint64`, `bool` or enum.
    pub(super) fn varint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, VARINT);
            self.raw_varint(value);
        }
    }

    /// Writes a `fixed64`.
    pub(super) fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, FIXED64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes a `fixed32`.
    pub(super) fn fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.tag(field, FIXED32);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes a `double` that is there also if it is 0: a member of a `oneof`, or optional.
    pub(super) fn double(&mut self, field: u32, value: f64) {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes an `int64` that is there also if it is 0: a member of a `oneof`.
    pub(super) fn int(&mut self, field: u32, value: i64) {
        self.tag(field, VARINT);
        self.raw_varint(value.cast_unsigned());
    }

    /// Writes an `sfixed64` that is there also if it is 0: a member of a `oneof`.
    pub(super) fn sfixed64(&mut self, field: u32, value: i64) {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes `bytes` or a `string`.
    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.any_bytes(field, value);
        }
    }

    /// Writes a `string` that is there also if it is empty: a member of a `oneof`.
    pub(super) fn text(&mut self, field: u32, value: &str) {
        self.any_bytes(field, value.as_bytes());
    }

    /// Writes a message, also an empty one.
    pub(super) fn message(&mut self, field: u32, value: &Self) {
        self.any_bytes(field, &value.0);
    }

    /// Writes a message that `fill` makes.
    pub(super) fn nested(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        let mut nested = Self::default();
        fill(&mut nested);
        self.message(field, &nested);
    }

    /// Writes packed numbers of eight bytes.
    pub(super) fn packed64<const N: usize>(
        &mut self,
        field: u32,
        values: impl ExactSizeIterator<Item = [u8; N]>,
    ) {
        if values.len() > 0 {
            self.tag(field, BYTES);
            self.raw_varint((values.len() * N) as u64);
            values.for_each(|value| self.0.extend_from_slice(&value));
        }
    }

    fn any_bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, BYTES);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn tag(&mut self, field: u32, wire_type: u32) {
        self.raw_varint(u64::from(field << 3 | wire_type));
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// Reads a varint field of the nested message `outer`, as an answer of a collector has it. Returns 0
/// for what is not there or cannot be read.
pub(super) fn nested_varint(bytes: &[u8], outer: u32, inner: u32) -> u64 {
    let mut found = 0;
    fields(bytes, |field, value| {
        if let (true, Value::Bytes(nested)) = (field == outer, value) {
            fields(nested, |field, value| {
                if let (true, Value::Varint(value)) = (field == inner, value) {
                    found = value;
                }
            });
        }
    });
    found
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// Calls `each` for the fields of a message, until one cannot be read.
fn fields<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u32, Value<'a>)) -> Option<()> {
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let field = u32::try_from(tag >> 3).ok()?;
        match (tag & 7) as u32 {
            VARINT => each(field, Value::Varint(read_varint(&mut bytes)?)),
            BYTES => {
                let length = usize::try_from(read_varint(&mut bytes)?).ok()?;
                each(field, Value::Bytes(bytes.split_off(..length)?));
            }
            FIXED64 => drop(bytes.split_off(..8)?),
            FIXED32 => drop(bytes.split_off(..4)?),
            _ => return None,
        }
    }
    Some(())
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_in_the_wire_format() {
        // The examples of the encoding guide of protocol buffers.
        let mut message = Message::default();
        message.varint(1, 150);
        assert_eq!(message.clone().into_bytes(), [0x08, 0x96, 0x01]);
        let mut outer = Message::default();
        outer.message(3, &message);
        assert_eq!(outer.into_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        let mut text = Message::default();
        text.text(2, "testing");
        assert_eq!(text.into_bytes(), b"\x12\x07testing");
        let mut negative = Message::default();
        negative.int(1, -2);
        let expected = [8, 0xfe, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(negative.into_bytes(), expected);
    }

    #[test]
    fn answers_of_collectors_are_read_within_their_bytes() {
        let mut partial = Message::default();
        partial.varint(1, 300);
        partial.text(2, "why");
        let mut answer = Message::default();
        answer.fixed32(9, 1);
        answer.fixed64(8, 1);
        answer.message(1, &partial);
        let bytes = answer.into_bytes();
        assert_eq!(nested_varint(&bytes, 1, 1), 300);
        for cut in 0..bytes.len() {
            let _ = nested_varint(&bytes[..cut], 1, 1);
        }
        assert_eq!(
            nested_varint(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], 1, 1),
            0
        );
        assert_eq!(nested_varint(&[0xff; 32], 1, 1), 0);
    }
}
