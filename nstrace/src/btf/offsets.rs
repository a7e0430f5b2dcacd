//! The offsets of [`FIELDS`] in a kernel, from its BTF.

use nstrace_common::field::{FIELDS, FIELDS_LEN, FieldRow, MISSING, Need, Offsets};

use super::Btf;

/// A member that nstrace cannot work without is not in this kernel's BTF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this kernel's BTF has no {0}")]
pub struct Missing(pub String);

/// Looks every member up. `btf` must have been read with the structs of [`FIELDS`].
pub fn offsets(btf: &Btf) -> Result<Offsets, Missing> {
    let mut table = [MISSING; FIELDS_LEN];
    for row in FIELDS {
        match lookup(btf, row) {
            Some(value) => table[row.field as usize] = value,
            None if row.need == Need::Optional => {}
            None => return Err(Missing(format!("{}.{}", row.strukt, row.paths[0]))),
        }
    }
    Ok(table)
}

fn lookup(btf: &Btf, row: &FieldRow) -> Option<u32> {
    row.paths
        .iter()
        .find_map(|path| match path.strip_prefix('#') {
            Some(path) => btf
                .member(row.strukt, path)
                .map(|member| member.element_size),
            None => btf.member(row.strukt, path).map(|member| member.offset),
        })
}

#[cfg(test)]
mod tests;
