//! Names of kernel functions, those of modules too, from `/proc/kallsyms`.

use nstrace_common::writers::{FRAMES, MountRecord};

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
};

/// The functions of the kernel and of the modules that were there when it was read.
#[derive(Debug, Default)]
pub struct Symbols {
    /// By address.
    functions: Vec<Function>,
    /// Their names, one after the other.
    names: String,
    /// What modules there were.
    modules: String,
}

#[derive(Debug)]
struct Function {
    address: u64,
    /// Where its name begins, and that of its module; where it ends.
    name: [u32; 3],
}

/// A place in a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'s> {
    /// The function.
    pub function: &'s str,
    /// Its module; empty if it is the kernel's own.
    pub module: &'s str,
    /// How far behind its beginning.
    pub offset: u64,
}

impl Symbols {
    /// Reads them, if the modules are not those of the last time.
    pub fn refresh(&mut self) -> io::Result<()> {
        let modules = modules();
        if self.functions.is_empty() || modules != self.modules {
            *self = Symbols::read(BufReader::new(File::open("/proc/kallsyms")?))?;
            self.modules = modules;
        }
        Ok(())
    }

    fn read(lines: impl io::BufRead) -> io::Result<Symbols> {
        let mut symbols = Symbols::default();
        for line in lines.lines() {
            symbols.learn(&line?);
        }
        symbols.functions.sort_by_key(|function| function.address);
        Ok(symbols)
    }

    /// A line: address, type, name, and the module in brackets.
    fn learn(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
        else {
            return;
        };
        let module = words.next().unwrap_or_default();
        let module = module.trim_matches(['[', ']']);
        let Ok(address) = u64::from_str_radix(address, 16) else {
            return;
        };
        if address == 0 || !matches!(kind, "t" | "T" | "w" | "W") {
            return;
        }
        let at = self.names.len() as u32;
        self.names.push_str(name);
        let middle = self.names.len() as u32;
        self.names.push_str(module);
        let name = [at, middle, self.names.len() as u32];
        self.functions.push(Function { address, name });
    }

    /// What is at an address.
    pub fn at(&self, address: u64) -> Option<Symbol<'_>> {
        let behind = self
            .functions
            .partition_point(|function| function.address <= address);
        let Function {
            address: begin,
            name: [at, middle, end],
        } = self.functions.get(behind.checked_sub(1)?)?;
        Some(Symbol {
            function: self.names.get(*at as usize..*middle as usize)?,
            module: self.names.get(*middle as usize..*end as usize)?,
            offset: address - begin,
        })
    }

    /// Appends the stack of a mount's death in `function`, from who called it on.
    pub fn name(&mut self, out: &mut String, record: &MountRecord, function: &str) {
        // Without names a stack has its addresses.
        let _ = self.refresh();
        let len = (record.frames_len as usize).min(FRAMES);
        let frames = self.callers(&record.frames[..len], function);
        self.stack(out, frames);
    }

    /// The frames behind those of a program that sits on `function`: its own, then that of the
    /// function, which is not there where the trampoline was jumped to (from v7.0).
    pub fn callers<'f>(&self, frames: &'f [u64], function: &str) -> &'f [u64] {
        /// The helper, the program, the trampoline, and what they have inlined.
        const OWN: usize = 12;
        let is_own = |frame: &u64| {
            self.at(*frame)
                .is_some_and(|at| at.function == function || at.module == "bpf")
        };
        let own = frames.iter().take(OWN).rposition(is_own);
        &frames[own.map_or(0, |at| at + 1)..]
    }

    /// Appends a stack, a line for each frame: the function, `+0x` and how far behind its
    /// beginning, and the module in brackets; what has no name as its address.
    pub fn stack(&self, out: &mut String, frames: &[u64]) {
        for (i, frame) in frames.iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            // Writing to a String does not fail.
            let _ = match self.at(*frame) {
                Some(Symbol {
                    function,
                    module: "",
                    offset,
                }) => write!(out, "{function}+{offset:#x}"),
                Some(Symbol {
                    function,
                    module,
                    offset,
                }) => write!(out, "{function}+{offset:#x} [{module}]"),
                None => write!(out, "{frame:#x}"),
            };
        }
    }
}

/// The names and the addresses of the modules: what else `/proc/modules` has changes with
/// each use.
fn modules() -> String {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    let mut modules = String::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let address = words.nth(4).unwrap_or_default();
        modules.push_str(name);
        modules.push_str(address);
        modules.push('\n');
    }
    modules
}

/// The address of a symbol. None where the kernel does not say it (kernel.kptr_restrict=2,
/// or for a variable, built without CONFIG_KALLSYMS_ALL).
pub fn address(name: &str) -> io::Result<Option<u64>> {
    for line in BufReader::new(File::open("/proc/kallsyms")?).lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let address = words.next();
        if words.nth(1) == Some(name) && words.next().is_none() {
            let address = address.and_then(|hex| u64::from_str_radix(hex, 16).ok());
            return Ok(address.filter(|address| *address != 0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "\
ffffffff81000000 T _text
ffffffff812a0040 t cleanup_mnt
ffffffff812a0200 T mnt_drop_write
ffffffff81b00000 D a_variable
ffffffffc0200000 t ovl_copy_up_one\t[overlay]
0000000000000000 A fixed
nonsense
";

    #[test]
    fn an_address_is_in_the_function_that_begins_before_it() {
        let symbols = Symbols::read(KALLSYMS.as_bytes()).unwrap();
        let mut text = String::new();
        let frames = [0xffff_ffff_812a_0141, 0xffff_ffff_c020_0010, 0x10];
        symbols.stack(&mut text, &frames);
        assert_eq!(
            text,
            "cleanup_mnt+0x101\novl_copy_up_one+0x10 [overlay]\n0x10"
        );
        assert_eq!(symbols.at(0xffff_ffff_812a_0200).unwrap().offset, 0);
    }
}
