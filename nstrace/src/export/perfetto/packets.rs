//! Packets of a trace: clocks, tracks, and events on them.

use std::io::{self, Write};

use foldhash::HashMap;

use super::proto::{
    Message, annotation, clock_snapshot, event, interned, packet, put, trace, track,
};

/// All packets are of one sequence; 0 is none.
const SEQUENCE: u64 = 1;

/// Writes packets.
pub struct Packets<W> {
    out: W,
    names: Interned,
    /// The packet that is being written, and what stands before it.
    packet: Vec<u8>,
    head: Vec<u8>,
    has_begun: bool,
}

/// A track.
#[derive(Clone, Copy, Debug)]
pub struct Track<'a> {
    /// Unlike that of any other.
    pub uuid: u64,
    /// What it is below, if it is below another one.
    pub parent: Option<u64>,
    /// What a viewer shows beside it.
    pub name: &'a str,
    /// What a viewer shows if it is asked.
    pub description: Option<&'a str>,
    /// Whether a viewer shows it and others of that name as one.
    pub merges: bool,
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A slice begins.
    Begin,
    /// What began last on the track, and has not ended, ends.
    End,
    /// A moment.
    Instant,
}

impl<W: Write> Packets<W> {
    /// Nothing is written yet.
    pub fn new(out: W) -> Packets<W> {
        Packets {
            out,
            names: Interned::default(),
            packet: Vec::new(),
            head: Vec::new(),
            has_begun: false,
        }
    }

    /// Ties the clocks to each other: both show the same moment.
    pub fn clocks(&mut self, mono_ns: u64, wall_ns: u64) -> io::Result<()> {
        self.packet(|packet, _| {
            packet.message(packet::CLOCK_SNAPSHOT, |snapshot| {
                for (id, ns) in [
                    (clock_snapshot::MONOTONIC, mono_ns),
                    (clock_snapshot::REALTIME, wall_ns),
                ] {
                    snapshot.message(clock_snapshot::CLOCKS, |clock| {
                        clock.number(clock_snapshot::CLOCK_ID, id);
                        clock.number(clock_snapshot::TIMESTAMP, ns);
                    });
                }
                // Else it is CLOCK_BOOTTIME, which a recording does not have.
                snapshot.number(
                    clock_snapshot::PRIMARY_TRACE_CLOCK,
                    clock_snapshot::MONOTONIC,
                );
            });
        })
    }

    /// Describes a track, before there are events on it.
    pub fn track(&mut self, track: &Track) -> io::Result<()> {
        self.packet(|packet, _| {
            packet.message(packet::TRACK_DESCRIPTOR, |out| {
                out.number(track::UUID, track.uuid);
                out.text(track::NAME, track.name);
                if let Some(parent) = track.parent {
                    out.number(track::PARENT_UUID, parent);
                }
                out.number(track::CHILD_ORDERING, track::CHRONOLOGICAL);
                if let Some(description) = track.description {
                    out.text(track::DESCRIPTION, description);
                }
                let merging = match track.merges {
                    true => track::SIBLING_MERGE_BEHAVIOR_BY_TRACK_NAME,
                    false => track::SIBLING_MERGE_BEHAVIOR_NONE,
                };
                out.number(track::SIBLING_MERGE_BEHAVIOR, merging);
            });
        })
    }

    /// Writes an event of a track.
    pub fn event(
        &mut self,
        time_ns: u64,
        track: u64,
        kind: Type,
        write: impl FnOnce(&mut TrackEvent),
    ) -> io::Result<()> {
        self.packet(|packet, names| {
            packet.number(packet::TIMESTAMP, time_ns);
            packet.number(packet::TIMESTAMP_CLOCK_ID, clock_snapshot::MONOTONIC);
            packet.message(packet::TRACK_EVENT, |out| {
                let kind = match kind {
                    Type::Begin => event::TYPE_SLICE_BEGIN,
                    Type::End => event::TYPE_SLICE_END,
                    Type::Instant => event::TYPE_INSTANT,
                };
                out.number(event::TYPE, kind);
                out.number(event::TRACK_UUID, track);
                write(&mut TrackEvent(Message(out.0), names));
            });
        })
    }

    fn packet(&mut self, write: impl FnOnce(&mut Message, &mut Interned)) -> io::Result<()> {
        self.packet.clear();
        let mut packet = Message(&mut self.packet);
        packet.number(packet::TRUSTED_PACKET_SEQUENCE_ID, SEQUENCE);
        let flags = match std::mem::replace(&mut self.has_begun, true) {
            true => packet::SEQ_NEEDS_INCREMENTAL_STATE,
            false => packet::SEQ_INCREMENTAL_STATE_CLEARED,
        };
        packet.number(packet::SEQUENCE_FLAGS, flags);
        write(&mut packet, &mut self.names);
        let new = &mut self.names.new;
        if !new.is_empty() {
            packet.message(packet::INTERNED_DATA, |out| out.0.append(new));
        }
        self.head.clear();
        put(&mut self.head, u64::from(trace::PACKET << 3 | 2));
        put(&mut self.head, self.packet.len() as u64);
        self.out.write_all(&self.head)?;
        self.out.write_all(&self.packet)
    }

    /// Everything is on its way.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Words of nstrace's own, which are written once and numbered. A number stands for one of
/// each list.
#[derive(Default)]
struct Interned {
    numbers: HashMap<(u32, &'static str), u64>,
    /// What the packet that is being written is the first to have.
    new: Vec<u8>,
}

impl Interned {
    fn number(&mut self, list: u32, word: &'static str) -> u64 {
        let next = self.numbers.len() as u64 + 1;
        *self.numbers.entry((list, word)).or_insert_with(|| {
            Message(&mut self.new).message(list, |out| {
                out.number(interned::IID, next);
                out.text(interned::NAME, word);
            });
            next
        })
    }
}

/// An event that is being written.
pub struct TrackEvent<'m>(Message<'m>, &'m mut Interned);

impl TrackEvent<'_> {
    /// What it is called: a word of nstrace's own.
    pub fn name(&mut self, name: &'static str) {
        let iid = self.1.number(interned::EVENT_NAMES, name);
        self.0.number(event::NAME_IID, iid);
    }

    /// The same with any text.
    pub fn name_text(&mut self, name: &str) {
        self.0.text(event::NAME, name);
    }

    /// Of which sort it is. It may be of several.
    pub fn category(&mut self, category: &'static str) {
        let iid = self.1.number(interned::EVENT_CATEGORIES, category);
        self.0.number(event::CATEGORY_IIDS, iid);
    }

    /// What is said of it.
    pub fn notes(&mut self) -> Notes<'_> {
        Notes {
            out: Message(self.0.0),
            names: self.1,
            field: event::DEBUG_ANNOTATIONS,
        }
    }
}

/// Values by name: those of an event, or a value that has values itself.
pub struct Notes<'m> {
    out: Message<'m>,
    names: &'m mut Interned,
    field: u32,
}

impl Notes<'_> {
    fn note(&mut self, name: &'static str, write: impl FnOnce(&mut Message, &mut Interned)) {
        let iid = self.names.number(interned::DEBUG_ANNOTATION_NAMES, name);
        let names = &mut *self.names;
        self.out.message(self.field, |out| {
            out.number(annotation::NAME_IID, iid);
            write(out, names);
        });
    }

    /// A number.
    pub fn number(&mut self, name: &'static str, value: impl Into<u64>) {
        let value = value.into();
        self.note(name, |out, _| out.number(annotation::UINT_VALUE, value));
    }

    /// A number of which zero stands for nothing.
    pub fn some(&mut self, name: &'static str, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.number(name, value);
        }
    }

    /// A number that may be negative.
    pub fn signed(&mut self, name: &'static str, value: i64) {
        self.note(name, |out, _| out.signed(annotation::INT_VALUE, value));
    }

    /// Whether something is so.
    pub fn is(&mut self, name: &'static str, value: bool) {
        self.note(name, |out, _| out.number(annotation::BOOL_VALUE, value));
    }

    /// Text, if there is one.
    pub fn text(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.note(name, |out, _| out.text(annotation::STRING_VALUE, text));
        }
    }

    /// Values of its own.
    pub fn object(&mut self, name: &'static str, write: impl FnOnce(&mut Notes)) {
        self.note(name, |out, names| {
            write(&mut Notes {
                out: Message(out.0),
                names,
                field: annotation::DICT_ENTRIES,
            });
        });
    }

    /// A list of such.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        values: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Notes, T),
    ) {
        self.note(name, |out, names| {
            for value in values {
                out.message(annotation::ARRAY_VALUES, |out| {
                    let mut notes = Notes {
                        out: Message(out.0),
                        names: &mut *names,
                        field: annotation::DICT_ENTRIES,
                    };
                    write(&mut notes, value);
                });
            }
        });
    }
}
