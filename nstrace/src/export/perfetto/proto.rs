//! The few messages of Perfetto's that are written, by hand: fields with their numbers,
//! named as in its sources below `protos/perfetto/trace`.
//!
//! The encoding is that of protocol buffers: a field is its number and the way in which its
//! value is written, then the value; a message within another is its length and its fields.

/// trace.proto, `Trace`.
pub mod trace {
    pub const PACKET: u32 = 1;
}

/// trace_packet.proto, `TracePacket`.
pub mod packet {
    pub const CLOCK_SNAPSHOT: u32 = 6;
    pub const TIMESTAMP: u32 = 8;
    pub const TRUSTED_PACKET_SEQUENCE_ID: u32 = 10;
    pub const TRACK_EVENT: u32 = 11;
    pub const INTERNED_DATA: u32 = 12;
    pub const SEQUENCE_FLAGS: u32 = 13;
    pub const TIMESTAMP_CLOCK_ID: u32 = 58;
    pub const TRACK_DESCRIPTOR: u32 = 60;

    /// `SequenceFlags`.
    pub const SEQ_INCREMENTAL_STATE_CLEARED: u64 = 1;
    pub const SEQ_NEEDS_INCREMENTAL_STATE: u64 = 2;
}

/// clock_snapshot.proto, `ClockSnapshot` and its `Clock`.
pub mod clock_snapshot {
    pub const CLOCKS: u32 = 1;
    pub const PRIMARY_TRACE_CLOCK: u32 = 2;

    pub const CLOCK_ID: u32 = 1;
    pub const TIMESTAMP: u32 = 2;

    /// common/builtin_clock.proto.
    pub const REALTIME: u64 = 1;
    pub const MONOTONIC: u64 = 3;
}

/// track_event/track_descriptor.proto, `TrackDescriptor`.
pub mod track {
    pub const UUID: u32 = 1;
    pub const NAME: u32 = 2;
    pub const PARENT_UUID: u32 = 5;
    pub const CHILD_ORDERING: u32 = 11;
    pub const DESCRIPTION: u32 = 14;
    pub const SIBLING_MERGE_BEHAVIOR: u32 = 15;

    /// `ChildTracksOrdering`.
    pub const CHRONOLOGICAL: u64 = 2;
    /// `SiblingMergeBehavior`.
    pub const SIBLING_MERGE_BEHAVIOR_BY_TRACK_NAME: u64 = 1;
    pub const SIBLING_MERGE_BEHAVIOR_NONE: u64 = 2;
}

/// track_event/track_event.proto, `TrackEvent`.
pub mod event {
    pub const CATEGORY_IIDS: u32 = 3;
    pub const DEBUG_ANNOTATIONS: u32 = 4;
    pub const TYPE: u32 = 9;
    pub const NAME_IID: u32 = 10;
    pub const TRACK_UUID: u32 = 11;
    pub const NAME: u32 = 23;

    /// `Type`.
    pub const TYPE_SLICE_BEGIN: u64 = 1;
    pub const TYPE_SLICE_END: u64 = 2;
    pub const TYPE_INSTANT: u64 = 3;
}

/// track_event/debug_annotation.proto, `DebugAnnotation`.
pub mod annotation {
    pub const NAME_IID: u32 = 1;
    pub const BOOL_VALUE: u32 = 2;
    pub const UINT_VALUE: u32 = 3;
    pub const INT_VALUE: u32 = 4;
    pub const STRING_VALUE: u32 = 6;
    pub const DICT_ENTRIES: u32 = 11;
    pub const ARRAY_VALUES: u32 = 12;
}

/// interned_data/interned_data.proto, `InternedData`; what is in it are `EventCategory`,
/// `EventName` and `DebugAnnotationName`, which have the same fields.
pub mod interned {
    pub const EVENT_CATEGORIES: u32 = 1;
    pub const EVENT_NAMES: u32 = 2;
    pub const DEBUG_ANNOTATION_NAMES: u32 = 3;

    pub const IID: u32 = 1;
    pub const NAME: u32 = 2;
}

/// How values are written.
const VARINT: u32 = 0;
const LEN: u32 = 2;

/// A message that is being written, behind whatever is there before it.
pub struct Message<'m>(pub &'m mut Vec<u8>);

impl Message<'_> {
    /// A field of type uint32, uint64, bool or an enumeration.
    pub fn number(&mut self, field: u32, value: impl Into<u64>) {
        put(self.0, u64::from(field << 3 | VARINT));
        put(self.0, value.into());
    }

    /// A field of type int64.
    pub fn signed(&mut self, field: u32, value: i64) {
        self.number(field, value.cast_unsigned());
    }

    /// A field of type string.
    pub fn text(&mut self, field: u32, text: &str) {
        put(self.0, u64::from(field << 3 | LEN));
        put(self.0, text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A message within this one.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Message)) {
        put(self.0, u64::from(field << 3 | LEN));
        // Nearly all are so short that their length is one byte.
        let at = self.0.len();
        self.0.push(0);
        write(&mut Message(self.0));
        let len = self.0.len() - at - 1;
        if len < 0x80 {
            self.0[at] = len as u8;
            return;
        }
        let mut long = Vec::with_capacity(10);
        put(&mut long, len as u64);
        self.0.splice(at..=at, long);
    }
}

/// Appends a number in as few groups of 7 bits as it needs, the lowest first.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand, from protobuf.dev/programming-guides/encoding: 150 is 96 01, "testing" in
    // field 2 is 12 07 74 65 73 74 69 6e 67.
    #[test]
    fn fields_are_as_the_guide_has_them() {
        let mut out = Vec::new();
        let mut message = Message(&mut out);
        message.number(1, 150_u64);
        message.text(2, "testing");
        message.message(3, |inner| inner.number(1, 150_u64));
        message.signed(4, -2);
        message.number(58, true);
        let expected = [
            &[0x08, 0x96, 0x01][..],
            b"\x12\x07testing",
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
            &[
                0x20, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
            ],
            &[0xd0, 0x03, 0x01],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn a_long_message_has_its_whole_length() {
        let mut out = Vec::new();
        Message(&mut out).message(1, |inner| inner.text(2, &"x".repeat(300)));
        // 300 and its two bytes, and one for the field: 303 is af 02.
        assert_eq!(out[..6], [0x0a, 0xaf, 0x02, 0x12, 0xac, 0x02]);
        assert_eq!(out.len(), 3 + 303);
    }
}
