//! Blocks: what has gathered, compressed, with a checksum over all of it.

/// What each block begins with.
pub const MAGIC: [u8; 4] = *b"nst\x01";

/// Bytes before the payload.
pub const HEAD: usize = 40;

/// So long is a payload at most, compressed or not: what a reader needs of memory.
pub const PAYLOAD_MAX: usize = 16 << 20;

/// Payloads as they are.
const RAW: u8 = 0;
/// Compressed as LZ4 blocks.
const LZ4: u8 = 1;

/// What a block has. Those of other kinds are left out by who does not know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Where the recording was made, and how ([`super::Head`]); the first.
    Head = 1,
    /// Events.
    Events = 2,
    /// The recording was ended, not cut; and where states are ([`super::index`]).
    End = 3,
    /// What is known of the machine there ([`super::State`]).
    State = 4,
    /// When the clock on the wall was set so far ([`super::Clocks`]).
    Clocks = 5,
    /// The ledger of write access, before the state of the same place ([`super::writers`]).
    Writers = 6,
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// A [`Kind`].
    pub kind: u8,
    codec: u8,
    /// Bytes of the payload in the file.
    pub stored: u32,
    /// Bytes of it when it is unpacked.
    size: u32,
    /// The earliest and the latest time of its events, `CLOCK_MONOTONIC` in ns; both 0
    /// without events.
    pub times: [u64; 2],
    /// How many events.
    pub events: u32,
    checksum: u32,
}

impl BlockHead {
    /// Reads one; none if this is none.
    pub fn parse(bytes: &[u8; HEAD]) -> Option<BlockHead> {
        let u32_at = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let head = BlockHead {
            kind: bytes[4],
            codec: bytes[5],
            stored: u32_at(8),
            size: u32_at(12),
            times: [u64_at(16), u64_at(24)],
            events: u32_at(32),
            checksum: u32_at(36),
        };
        let is_short = |len: u32| len as usize <= PAYLOAD_MAX;
        let is_one = bytes[..4] == MAGIC && is_short(head.stored) && is_short(head.size);
        is_one.then_some(head)
    }

    /// Whether the checksum is that of the head and its payload.
    pub fn is_sound(&self, head: &[u8; HEAD], payload: &[u8]) -> bool {
        checksum(head, payload) == self.checksum
    }

    /// Unpacks a payload, in place of what is in the room; none if it is none, or packed in
    /// a way that is not known.
    pub fn unpack(&self, payload: &[u8], room: &mut Vec<u8>) -> Option<()> {
        match self.codec {
            RAW => {
                room.clear();
                room.extend_from_slice(payload);
            }
            LZ4 => {
                room.resize(self.size as usize, 0);
                let len = lz4_flex::block::decompress_into(payload, room).ok()?;
                room.truncate(len);
            }
            _ => return None,
        }
        (room.len() == self.size as usize).then_some(())
    }
}

/// Appends a block.
pub fn append(out: &mut Vec<u8>, kind: Kind, payload: &[u8], times: [u64; 2], events: u32) {
    let start = out.len();
    let room = lz4_flex::block::get_maximum_output_size(payload.len());
    out.resize(start + HEAD + room, 0);
    let packed = lz4_flex::block::compress_into(payload, &mut out[start + HEAD..]);
    let (codec, stored) = match packed {
        Ok(len) if len < payload.len() => (LZ4, len),
        _ => {
            out[start + HEAD..][..payload.len()].copy_from_slice(payload);
            (RAW, payload.len())
        }
    };
    out.truncate(start + HEAD + stored);
    let head = &mut out[start..start + HEAD];
    head[..4].copy_from_slice(&MAGIC);
    head[4] = kind as u8;
    head[5] = codec;
    head[8..12].copy_from_slice(&(stored as u32).to_le_bytes());
    head[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[16..24].copy_from_slice(&times[0].to_le_bytes());
    head[24..32].copy_from_slice(&times[1].to_le_bytes());
    head[32..36].copy_from_slice(&events.to_le_bytes());
    let (head, payload) = out[start..].split_at(HEAD);
    let sum = checksum(head, payload);
    out[start + HEAD - 4..start + HEAD].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32 (of zlib) of a head up to the checksum, and of the payload.
fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head[..HEAD - 4]);
    sum.update(payload);
    sum.finalize()
}
