//! The part of a kernel's BTF that nstrace reads, as BTF of its own.
//!
//! It reads BTF for itself: nstrace's reader is what the result tests. Types keep
//! their order, so the same kernel gives the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail};
use nstrace_common::field::FIELDS;
use nstrace_common::probe::{At, PROBES, symbol};

/// Functions that nstrace asks about without a probe on them: `HELPERS` in
/// nstrace/src/kernel/plan.rs, where a test misses what is not here.
const HELPERS: [&str; 3] = [
    "bpf_get_current_task_btf",
    "bpf_task_pt_regs",
    "bpf_rdonly_cast",
];

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const FLOAT: u32 = 16;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;
const HEADER_LEN: u32 = 24;
const KIND_FLAG: u32 = 1 << 31;

/// A type: Documentation/bpf/btf.rst.
#[derive(Clone)]
struct Type {
    name: String,
    kind: u32,
    /// Whether the kind flag is set.
    flag: bool,
    size_or_type: u32,
    /// What follows the common part, except members.
    data: Vec<u32>,
    /// Members of a struct or a union.
    members: Vec<Member>,
}

#[derive(Clone)]
struct Member {
    name: String,
    ty: u32,
    /// Offset in bits, and the width of a bitfield.
    position: u32,
}

/// What to keep, by type id: the indexes of the members, of a struct or a union.
type Kept = BTreeMap<u32, BTreeSet<usize>>;

/// The part of `raw` that nstrace reads.
pub fn of(raw: &[u8]) -> Result<Vec<u8>> {
    let types = read(raw)?;
    let mut kept = Kept::new();
    for row in FIELDS {
        let id = types
            .iter()
            .position(|ty| ty.kind == STRUCT && ty.name == row.strukt)
            .with_context(|| format!("has no struct {}", row.strukt))?;
        for path in row.paths {
            let path = path.trim_start_matches('#');
            keep_path(&types, &mut kept, id as u32, path);
        }
    }
    let names = function_names();
    for (id, ty) in types.iter().enumerate() {
        if ty.kind == FUNC && names.contains(&ty.name) {
            kept.entry(id as u32).or_default();
        }
    }
    Ok(write(&rebuild(&types, &kept)))
}

fn function_names() -> BTreeSet<String> {
    let probes = PROBES.iter().filter(|probe| probe.at != At::Tracepoint);
    let probed = probes.flat_map(|probe| [Some(probe.function), probe.unless]);
    let full = |name| {
        let (prefix, name) = symbol(name);
        format!("{prefix}{name}")
    };
    probed.flatten().chain(HELPERS).map(full).collect()
}

/// Keeps the members on a dotted path, if the kernel has all of it.
fn keep_path(types: &[Type], kept: &mut Kept, strukt: u32, path: &str) {
    let mut way = Vec::new();
    let mut id = strukt;
    for name in path.split('.') {
        let Some(steps) = find(types, id, name) else {
            return;
        };
        way.extend(steps);
        if let Some(&(holder, index)) = way.last() {
            id = types[holder as usize].members[index].ty;
        }
    }
    for (holder, index) in way {
        kept.entry(holder).or_default().insert(index);
        keep_type(types, kept, types[holder as usize].members[index].ty);
    }
}

/// The way to a member: through anonymous ones, each with what holds it.
fn find(types: &[Type], id: u32, name: &str) -> Option<Vec<(u32, usize)>> {
    let id = strip(types, id);
    let members = &types[id as usize].members;
    members.iter().enumerate().find_map(|(index, member)| {
        if member.name == name {
            return Some(vec![(id, index)]);
        }
        let inner = member.name.is_empty().then_some(member.ty)?;
        let mut way = find(types, inner, name)?;
        way.insert(0, (id, index));
        Some(way)
    })
}

/// The type behind typedefs and qualifiers.
fn strip(types: &[Type], mut id: u32) -> u32 {
    while refers(types[id as usize].kind) {
        id = types[id as usize].size_or_type;
    }
    id
}

fn refers(kind: u32) -> bool {
    matches!(kind, TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG)
}

/// Keeps a member's type, and the types that its size follows from.
fn keep_type(types: &[Type], kept: &mut Kept, id: u32) {
    let ty = &types[id as usize];
    kept.entry(id).or_default();
    if refers(ty.kind) {
        keep_type(types, kept, ty.size_or_type);
    }
    if ty.kind == ARRAY {
        // The element's type, the index's type, the length.
        keep_type(types, kept, ty.data[0]);
        keep_type(types, kept, ty.data[1]);
    }
}

/// The kept types, without what is not kept of them, under their new ids.
fn rebuild(types: &[Type], kept: &Kept) -> Vec<Type> {
    let new_ids: HashMap<u32, u32> = kept.keys().copied().zip(1..).collect();
    let new_id = |old: u32| new_ids.get(&old).copied().unwrap_or(0);
    let prototype = kept.len() as u32 + 1;
    let mut rebuilt: Vec<Type> = kept
        .iter()
        .map(|(&id, members)| {
            let mut ty = types[id as usize].clone();
            ty.members = members.iter().map(|&i| ty.members[i].clone()).collect();
            for member in &mut ty.members {
                member.ty = new_id(member.ty);
            }
            match ty.kind {
                FUNC => ty.size_or_type = prototype,
                PTR => ty.size_or_type = 0,
                ARRAY => ty.data[..2].iter_mut().for_each(|id| *id = new_id(*id)),
                ENUM | ENUM64 => ty.data.clear(),
                kind if refers(kind) => ty.size_or_type = new_id(ty.size_or_type),
                _ => {}
            }
            ty
        })
        .collect();
    rebuilt.push(Type {
        name: String::new(),
        kind: FUNC_PROTO,
        flag: false,
        size_or_type: 0,
        data: Vec::new(),
        members: Vec::new(),
    });
    rebuilt
}

fn write(types: &[Type]) -> Vec<u8> {
    let mut strings = Strings::default();
    strings.offset("");
    let mut words = Vec::new();
    for ty in types {
        let flag = if ty.flag { KIND_FLAG } else { 0 };
        let info = flag | ty.kind << 24 | ty.members.len() as u32;
        words.extend([strings.offset(&ty.name), info, ty.size_or_type]);
        words.extend(&ty.data);
        for member in &ty.members {
            words.extend([strings.offset(&member.name), member.ty, member.position]);
        }
    }
    let types_len = words.len() as u32 * 4;
    let strings_len = strings.bytes.len() as u32;
    let header = [
        MAGIC_AND_VERSION,
        HEADER_LEN,
        0,
        types_len,
        types_len,
        strings_len,
    ];
    let words = header.into_iter().chain(words);
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.extend(strings.bytes);
    bytes
}

/// Strings, each once, in the order of their first use.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl Strings {
    fn offset(&mut self, text: &str) -> u32 {
        let next = self.bytes.len() as u32;
        let offset = *self.offsets.entry(text.to_owned()).or_insert(next);
        if offset == next {
            self.bytes.extend(text.bytes().chain([0]));
        }
        offset
    }
}

/// All types, by id; the first is void.
fn read(raw: &[u8]) -> Result<Vec<Type>> {
    let header = words(raw, 0, 6)?;
    if header[0] != MAGIC_AND_VERSION {
        bail!("is not BTF of version 1 for a little-endian machine");
    }
    let start = header[1] as usize;
    let types_at = start + header[2] as usize;
    let strings = raw
        .get(start + header[4] as usize..)
        .context("is cut short")?;
    let mut types = vec![Type {
        name: String::new(),
        kind: 0,
        flag: false,
        size_or_type: 0,
        data: Vec::new(),
        members: Vec::new(),
    }];
    let mut at = types_at;
    while at < types_at + header[3] as usize {
        let (ty, len) = read_type(raw, at, strings)
            .with_context(|| format!("type {}, at byte {at}", types.len()))?;
        types.push(ty);
        at += len;
    }
    Ok(types)
}

fn read_type(raw: &[u8], at: usize, strings: &[u8]) -> Result<(Type, usize)> {
    let common = words(raw, at, 3)?;
    let kind = common[1] >> 24 & 0x7f;
    let vlen = common[1] as usize & 0xff_ffff;
    let data_len = match kind {
        // 14 VAR, 17 DECL_TAG
        INT | 14 | 17 => 1,
        ARRAY => 3,
        // 15 DATASEC
        STRUCT | UNION | 15 | ENUM64 => 3 * vlen,
        ENUM | FUNC_PROTO => 2 * vlen,
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
        kind => bail!("is of the unknown kind {kind}"),
    };
    let mut ty = Type {
        name: string(strings, common[0])?,
        kind,
        flag: common[1] & KIND_FLAG != 0,
        size_or_type: common[2],
        data: words(raw, at + 12, data_len)?,
        members: Vec::new(),
    };
    if matches!(kind, STRUCT | UNION) {
        for member in ty.data.chunks_exact(3) {
            ty.members.push(Member {
                name: string(strings, member[0])?,
                ty: member[1],
                position: member[2],
            });
        }
        ty.data.clear();
    }
    Ok((ty, 12 + 4 * data_len))
}

fn words(raw: &[u8], at: usize, count: usize) -> Result<Vec<u32>> {
    let bytes = raw.get(at..at + 4 * count).context("is cut short")?;
    let (words, _) = bytes.as_chunks();
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

fn string(strings: &[u8], at: u32) -> Result<String> {
    let rest = strings
        .get(at as usize..)
        .context("has a name beyond the end")?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}
