//! The three things that we ask an x86-64 ELF file: a section by name, whether
//! it names an interpreter (that is, whether it is dynamic), and whether it is
//! ELF at all.
//!
//! Ours, and not readelf(1): binutils need not be installed, and a kernel of
//! 60 MB is in memory already when we ask.

const PT_INTERP: u32 = 3;

/// Whether the bytes begin as an ELF file does.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Whether the file needs a dynamic loader. False for what is no 64-bit ELF.
pub fn is_dynamic(bytes: &[u8]) -> bool {
    program_headers(bytes)
        .is_some_and(|mut headers| headers.any(|header| read_u32(header, 0) == Some(PT_INTERP)))
}

/// The contents of the section `name`; None if there is no such section or the
/// file is damaged.
pub fn section<'a>(bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let table = read_u64(bytes, 0x28)? as usize;
    let entry_size = read_u16(bytes, 0x3a)? as usize;
    let count = read_u16(bytes, 0x3c)? as usize;
    let names_index = read_u16(bytes, 0x3e)? as usize;
    let header = |index: usize| entry(bytes, table, index, entry_size)?.get(..64);
    let names = section_contents(bytes, header(names_index)?)?;
    (0..count)
        .filter_map(header)
        .find(|header| section_name(names, header) == Some(name.as_bytes()))
        .and_then(|header| section_contents(bytes, header))
}

fn section_contents<'a>(bytes: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let offset = read_u64(header, 0x18)? as usize;
    let size = read_u64(header, 0x20)? as usize;
    bytes.get(offset..)?.get(..size)
}

fn section_name<'a>(names: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let rest = names.get(read_u32(header, 0)? as usize..)?;
    rest.split(|&byte| byte == 0).next()
}

fn program_headers(bytes: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    if !is_elf(bytes) {
        return None;
    }
    let table = read_u64(bytes, 0x20)? as usize;
    let entry_size = read_u16(bytes, 0x36)? as usize;
    let count = read_u16(bytes, 0x38)? as usize;
    Some((0..count).filter_map(move |index| entry(bytes, table, index, entry_size)))
}

/// What follows the start of an entry of a table.
fn entry(bytes: &[u8], table: usize, index: usize, size: usize) -> Option<&[u8]> {
    bytes.get(table.checked_add(index.checked_mul(size)?)?..)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..)?.first_chunk()?.to_owned(),
    ))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..)?.first_chunk()?.to_owned(),
    ))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..)?.first_chunk()?.to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_input_has_no_sections() {
        assert_eq!(section(b"", ".BTF"), None);
        let mut bytes = vec![0xff; 64];
        bytes[..4].copy_from_slice(b"\x7fELF");
        assert_eq!(section(&bytes, ".BTF"), None);
        assert!(!is_dynamic(&bytes));
    }

    #[test]
    fn own_test_binary_has_a_text_section() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(section(&bytes, ".text").is_some_and(|text| !text.is_empty()));
        assert_eq!(section(&bytes, ".no such section"), None);
    }
}
