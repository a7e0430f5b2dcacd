//! A reader of BTF, the kernel's own description of its types, for the few that
//! nstrace asks about: where a struct has a member, and whether there is a function.
//!
//! Format: Documentation/bpf/btf.rst. One pass over some 120,000 types remembers
//! where the wanted names are and where each type starts; everything else is read
//! when asked for. Any bytes are safe input: a type that is cut short is an error, a
//! reference out of range finds nothing, and what refers to itself ends at a depth
//! and at a number of members.

mod offsets;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use offsets::{Missing, offsets};

use std::ffi::CStr;

use foldhash::HashMap;

/// Why bytes are not BTF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not the magic number, a foreign byte order, or a version that is not 1.
    #[error("it does not start as BTF of version 1 in this machine's byte order does")]
    Header,
    /// A section or a type reaches beyond the end.
    #[error("it is cut short at byte {0}")]
    Short(usize),
    /// A kind of type that is not known, so that the next one cannot be found.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// The type's id.
        id: u32,
        /// Its kind.
        kind: u32,
    },
}

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Members of members, typedefs of typedefs: none goes deeper in a real kernel.
const MAX_DEPTH: u32 = 16;

/// Members looked at for one name. A kernel's task_struct has some 300, its anonymous
/// structs included; a struct that holds itself twice, anonymously, has 2 to the
/// power of the depth.
const MAX_MEMBERS: u32 = 1 << 14;

/// BTF, with the places of the wanted names.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// The byte at which each type starts; the first has id 1.
    starts: Vec<u32>,
    structs: Wanted<'a>,
    functions: Wanted<'a>,
}

/// The ids of the wanted functions, and of typedefs of such a name.
#[derive(Clone, Debug)]
pub struct Skeleton<'a> {
    /// BTF up to the last of these typedefs, in which all else is left out.
    pub bytes: Vec<u8>,
    /// So many types these are.
    pub len: u32,
    /// The functions behind it, by their ids.
    pub functions: Vec<(u32, &'a str)>,
}

/// A power of two.
const STARTS: usize = 8192;

/// The wanted names, each with the id of its type once that was found.
struct Wanted<'a> {
    ids: HashMap<&'a str, Option<u32>>,
    /// A bit for each [`Wanted::start`] of a name: most names of the 70,000 that a kernel
    /// has need not be looked at further.
    starts: [u64; STARTS / 64],
}

impl<'a> Wanted<'a> {
    fn new(names: &[&'a str]) -> Self {
        let mut starts = [0; STARTS / 64];
        for name in names {
            let start = Self::start(name.as_bytes());
            starts[start / 64] |= 1 << (start % 64);
        }
        let ids = names.iter().map(|name| (*name, None)).collect();
        Wanted { ids, starts }
    }

    /// A number below [`STARTS`] from the first bytes of a name, up to four; what is behind
    /// its NUL does not count.
    fn start(name: &[u8]) -> usize {
        let mut first = name.first_chunk().map_or_else(
            || {
                name.iter()
                    .rev()
                    .fold(0, |first, byte| first << 8 | u32::from(*byte))
            },
            |first| u32::from_le_bytes(*first),
        );
        let nul = first.wrapping_sub(0x0101_0101) & !first & 0x8080_8080;
        if nul != 0 {
            first &= (1 << (nul.trailing_zeros() - 7)) - 1;
        }
        first.wrapping_mul(0x9e37_79b1) as usize >> (32 - STARTS.ilog2())
    }

    /// Notes a type. The first of its name counts: it is the kernel's own, later ones are
    /// of its modules.
    fn note(&mut self, strings: &[u8], name_at: u32, id: u32) {
        let start = Self::start(strings.get(name_at as usize..).unwrap_or_default());
        if self.starts[start / 64] >> (start % 64) & 1 != 0
            && let Some(name) = string(strings, name_at)
            && let Ok(name) = str::from_utf8(name)
            && let Some(found) = self.ids.get_mut(name)
        {
            found.get_or_insert(id);
        }
    }

    fn id(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied().flatten()
    }
}

/// The common part of a type.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    vlen: u32,
    bitfields: bool,
    /// Its size, or the type that it refers to.
    size_or_type: u32,
    /// Where its own data starts.
    data: usize,
}

/// A member of a struct, found by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its offset from the start of the struct, in bytes.
    pub offset: u32,
    /// The size of the member, of one element if it is an array, in bytes; 0 if it
    /// has none of its own (a flexible array of incomplete type).
    pub element_size: u32,
}

impl<'a> Btf<'a> {
    /// Reads `bytes`, and remembers the structs and functions of the given names, and
    /// typedefs among the functions: those stand for tracepoints (`btf_trace_NAME`); and
    /// variables, of which BTF has those of each CPU.
    pub fn parse(
        bytes: &'a [u8],
        structs: &[&'a str],
        functions: &[&'a str],
    ) -> Result<Self, BtfError> {
        let (types, strings) = sections(bytes)?;
        let mut btf = Btf {
            types,
            strings,
            // A type takes 27 bytes on average in the kernels of the tests.
            starts: Vec::with_capacity(types.len() / 24),
            structs: Wanted::new(structs),
            functions: Wanted::new(functions),
        };
        btf.walk()?;
        Ok(btf)
    }

    fn walk(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let id = self.starts.len() as u32 + 1;
            let ty = self.read(at)?;
            let end = ty.data + data_len(ty, id)?;
            if end > self.types.len() {
                return Err(BtfError::Short(at));
            }
            self.starts.push(at as u32);
            match ty.kind {
                KIND_STRUCT => self.structs.note(self.strings, ty.name, id),
                KIND_FUNC | KIND_TYPEDEF | KIND_VAR => {
                    self.functions.note(self.strings, ty.name, id)
                }
                _ => {}
            }
            at = end;
        }
        Ok(())
    }

    /// What a loader asks of BTF, which need not read 100,000 types for that.
    pub fn skeleton(&self) -> Skeleton<'a> {
        const FORWARD: [u32; 3] = [0, KIND_FWD << 24, 0];
        let found = self.functions.ids.iter();
        let mut found: Vec<(u32, &str, u32)> = found
            .filter_map(|(name, id)| Some(((*id)?, *name, self.kind((*id)?)?)))
            .filter(|(.., kind)| *kind != KIND_VAR)
            .collect();
        found.sort_unstable();
        let last = found.iter().rposition(|(.., kind)| *kind == KIND_TYPEDEF);
        let behind = found.split_off(last.map_or(0, |last| last + 1));
        let len = found.last().map_or(0, |(id, ..)| *id);
        let mut types = vec![FORWARD; len as usize];
        let mut strings = vec![0];
        for (id, name, kind) in found {
            types[(id - 1) as usize] = [strings.len() as u32, kind << 24, 0];
            strings.extend(name.bytes());
            strings.push(0);
        }
        let types_len = size_of_val(&types[..]) as u32;
        let header = [
            MAGIC_AND_VERSION,
            HEADER_LEN as u32,
            0,
            types_len,
            types_len,
            strings.len() as u32,
        ];
        let words = header.iter().chain(types.iter().flatten());
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(strings);
        Skeleton {
            bytes,
            len,
            functions: behind.into_iter().map(|(id, name, _)| (id, name)).collect(),
        }
    }

    fn kind(&self, id: u32) -> Option<u32> {
        let start = self.starts.get(id.checked_sub(1)? as usize)?;
        Some(self.read(*start as usize).ok()?.kind)
    }

    /// Whether there is a function of that name; it must have been asked for.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions.id(name).is_some()
    }

    /// The id of a function; it must have been asked for.
    pub fn function_id(&self, name: &str) -> Option<u32> {
        self.functions.id(name)
    }

    /// The id of a struct; it must have been asked for.
    pub fn struct_id(&self, name: &str) -> Option<u32> {
        self.structs.id(name)
    }

    /// The member of a struct at a dotted path; the struct must have been asked for.
    /// A bitfield is none: it has no address.
    pub fn member(&self, strukt: &str, path: &str) -> Option<Member> {
        let mut id = self.structs.id(strukt)?;
        let mut offset = 0u32;
        for name in path.split('.') {
            let mut left = MAX_MEMBERS;
            let (bits, ty) = self.find(self.resolve(id)?, name.as_bytes(), 0, &mut left)?;
            if bits % 8 != 0 {
                return None;
            }
            offset = offset.checked_add(bits / 8)?;
            id = ty;
        }
        Some(Member {
            offset,
            element_size: self.element_size(id),
        })
    }

    /// The offset in bits and the type of a member, also inside anonymous ones. At
    /// most `left` members are looked at.
    fn find(&self, strukt: Type, name: &[u8], depth: u32, left: &mut u32) -> Option<(u32, u32)> {
        if depth > MAX_DEPTH || !matches!(strukt.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for i in 0..strukt.vlen as usize {
            *left = left.checked_sub(1)?;
            let word = |n: usize| u32_at(self.types, strukt.data + i * 12 + 4 * n);
            let (name_at, ty, position) = (word(0)?, word(1)?, word(2)?);
            let (bits, width) = match strukt.bitfields {
                true => (position & 0xff_ffff, position >> 24),
                false => (position, 0),
            };
            if name_at != 0 {
                if string(self.strings, name_at) == Some(name) {
                    return (width == 0).then_some((bits, ty));
                }
            } else if let Some(inner) = self.resolve(ty)
                && let Some((inner, ty)) = self.find(inner, name, depth + 1, left)
            {
                return Some((bits.checked_add(inner)?, ty));
            }
        }
        None
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let start = *self.starts.get(id.checked_sub(1)? as usize)?;
            let ty = self.read(start as usize).ok()?;
            match ty.kind {
                KIND_TYPEDEF..=KIND_RESTRICT | KIND_TYPE_TAG => id = ty.size_or_type,
                _ => return Some(ty),
            }
        }
        None
    }

    fn element_size(&self, id: u32) -> u32 {
        let mut ty = self.resolve(id);
        for _ in 0..MAX_DEPTH {
            match ty {
                Some(array) if array.kind == KIND_ARRAY => {
                    ty = u32_at(self.types, array.data).and_then(|element| self.resolve(element));
                }
                Some(ty) => {
                    return match ty.kind {
                        KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_FLOAT
                        | KIND_ENUM64 => ty.size_or_type,
                        KIND_PTR => size_of::<usize>() as u32,
                        _ => 0,
                    };
                }
                None => return 0,
            }
        }
        0
    }

    fn read(&self, at: usize) -> Result<Type, BtfError> {
        let word = |i: usize| u32_at(self.types, at + 4 * i).ok_or(BtfError::Short(at));
        let (name, info, size_or_type) = (word(0)?, word(1)?, word(2)?);
        Ok(Type {
            name,
            // v7.2 include/uapi/linux/btf.h: 24 bits of vlen and 7 of kind. The bits that
            // it took were zero before.
            kind: info >> 24 & 0x7f,
            vlen: info & 0xff_ffff,
            bitfields: info >> 31 != 0,
            size_or_type,
            data: at + 12,
        })
    }
}

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
/// The first word of the header, in this machine's byte order, without flags.
const MAGIC_AND_VERSION: u32 = {
    let [a, b] = MAGIC.to_ne_bytes();
    u32::from_ne_bytes([a, b, 1, 0])
};

fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let magic = bytes.get(..2).ok_or(BtfError::Header)?;
    if magic != MAGIC.to_ne_bytes() || bytes.get(2) != Some(&1) {
        return Err(BtfError::Header);
    }
    let word = |at: usize| {
        u32_at(bytes, at)
            .map(|word| word as usize)
            .ok_or(BtfError::Short(at))
    };
    // Longer from v7.1 on, for a section that is not needed here.
    let header = word(4)?;
    if header < HEADER_LEN {
        return Err(BtfError::Header);
    }
    let section = |at: usize, len: usize| {
        let start = header.checked_add(at);
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if end <= bytes.len() => Ok(&bytes[start..end]),
            _ => Err(BtfError::Short(bytes.len())),
        }
    };
    Ok((
        section(word(8)?, word(12)?)?,
        section(word(16)?, word(20)?)?,
    ))
}

/// How many bytes of its own follow a type's common part.
fn data_len(ty: Type, id: u32) -> Result<usize, BtfError> {
    let vlen = ty.vlen as usize;
    match ty.kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => Ok(4),
        KIND_ARRAY => Ok(12),
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => Ok(vlen * 12),
        KIND_ENUM | KIND_FUNC_PROTO => Ok(vlen * 8),
        // The qualifiers are TYPEDEF, VOLATILE, CONST, RESTRICT.
        KIND_PTR
        | KIND_FWD
        | KIND_TYPEDEF..=KIND_RESTRICT
        | KIND_FUNC
        | KIND_FLOAT
        | KIND_TYPE_TAG => Ok(0),
        kind => Err(BtfError::Kind { id, kind }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

/// The name at an offset; none that is longer than a kernel's symbol can be, so that
/// looking for its end costs little.
fn string(strings: &[u8], at: u32) -> Option<&[u8]> {
    // v6.1 include/linux/kallsyms.h
    const KSYM_NAME_LEN: usize = 512;
    let rest = strings.get(at as usize..)?;
    let rest = &rest[..rest.len().min(KSYM_NAME_LEN)];
    CStr::from_bytes_until_nul(rest).ok().map(CStr::to_bytes)
}
