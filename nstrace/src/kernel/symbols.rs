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
    /// The modules that there were.
    modules: Vec<Module>,
    /// Those that have gone, with their functions, the last first: who has called from there
    /// is told later.
    gone: Vec<(Module, Symbols)>,
}

/// Where a module is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Module {
    name: String,
    begin: u64,
    end: u64,
}

/// So many modules that have gone are remembered.
const GONE_MAX: usize = 64;

/// No function of the kernel is longer, and no program: what is further behind the beginning of
/// one is none that is known.
const FUNCTION_MAX: u64 = 1 << 18;
const PROGRAM_MAX: u64 = 1 << 14;

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
        let modules = modules(&fs::read_to_string("/proc/modules").unwrap_or_default());
        if self.functions.is_empty() || modules != self.modules {
            let new = Symbols::read(BufReader::new(File::open("/proc/kallsyms")?))?;
            self.replace(new, modules);
        }
        Ok(())
    }

    /// Takes others in place of these, and remembers what has gone.
    fn replace(&mut self, new: Symbols, modules: Vec<Module>) {
        let last = std::mem::replace(self, Symbols { modules, ..new });
        for module in last
            .modules
            .iter()
            .filter(|own| !self.modules.contains(own))
        {
            self.gone.push((module.clone(), last.only(module)));
        }
        self.gone.extend(last.gone);
        // Where there is another now, what was there before is not what is meant.
        let modules = &self.modules;
        self.gone.retain(|(gone, _)| {
            let mut others = modules.iter();
            !others.any(|own| own.begin < gone.end && gone.begin < own.end)
        });
        self.gone.truncate(GONE_MAX);
    }

    /// The functions of one module.
    fn only(&self, module: &Module) -> Symbols {
        let mut own = Symbols::default();
        for function in &self.functions {
            if let Some((name, of)) = self.names(function)
                && of == module.name
            {
                own.add(function.address, name, of);
            }
        }
        own
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
        self.add(address, name, module);
    }

    fn add(&mut self, address: u64, name: &str, module: &str) {
        let at = self.names.len() as u32;
        self.names.push_str(name);
        let middle = self.names.len() as u32;
        self.names.push_str(module);
        let name = [at, middle, self.names.len() as u32];
        self.functions.push(Function { address, name });
    }

    /// What is at an address, or was there before its module went.
    pub fn at(&self, address: u64) -> Option<Symbol<'_>> {
        let has = |module: &&Module| (module.begin..module.end).contains(&address);
        if self.modules.iter().any(|module| has(&module)) {
            return self.nearest(address).filter(|at| !at.module.is_empty());
        }
        // Since v6.4 a module's size is not that of its text alone: the nearest is the one.
        let gone = self.gone.iter().rev().filter(|(module, _)| has(&module));
        if let Some((_, symbols)) = gone.max_by_key(|(module, _)| module.begin) {
            return symbols.nearest(address);
        }
        let limit = |at: &Symbol| match at.module {
            "" => FUNCTION_MAX,
            "bpf" => PROGRAM_MAX,
            // It ends before.
            _ => 0,
        };
        self.nearest(address).filter(|at| at.offset < limit(at))
    }

    /// The function that begins last before an address.
    fn nearest(&self, address: u64) -> Option<Symbol<'_>> {
        let behind = self
            .functions
            .partition_point(|function| function.address <= address);
        let function = self.functions.get(behind.checked_sub(1)?)?;
        let (name, module) = self.names(function)?;
        Some(Symbol {
            function: name,
            module,
            offset: address - function.address,
        })
    }

    /// The name of a function, and that of its module.
    fn names(&self, function: &Function) -> Option<(&str, &str)> {
        let [at, middle, end] = function.name.map(|at| at as usize);
        Some((self.names.get(at..middle)?, self.names.get(middle..end)?))
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

/// The modules of `/proc/modules`: name, size, how often and by whom it is used, state, address.
fn modules(text: &str) -> Vec<Module> {
    let module = |line: &str| {
        let mut words = line.split(' ');
        let (name, size) = (words.next()?, words.next()?.parse::<u64>().ok()?);
        let begin = words.nth(3)?.trim_start_matches("0x");
        let begin = u64::from_str_radix(begin, 16).ok()?;
        Some(Module {
            name: name.to_owned(),
            begin,
            end: begin.saturating_add(size),
        })
    };
    text.lines().filter_map(module).collect()
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

    const MODULES: &str = "overlay 20480 1 - Live 0xffffffffc0200000 (E)\n";

    #[test]
    fn an_address_is_in_the_function_that_begins_before_it() {
        let mut symbols = Symbols::read(KALLSYMS.as_bytes()).unwrap();
        symbols.modules = modules(MODULES);
        let mut text = String::new();
        let frames = [0xffff_ffff_812a_0141, 0xffff_ffff_c020_0010, 0x10];
        symbols.stack(&mut text, &frames);
        assert_eq!(
            text,
            "cleanup_mnt+0x101\novl_copy_up_one+0x10 [overlay]\n0x10"
        );
        assert_eq!(symbols.at(0xffff_ffff_812a_0200).unwrap().offset, 0);
        assert_eq!(symbols.at(0xffff_ffff_c021_0000), None);
    }

    #[test]
    fn what_has_gone_has_its_name_and_nobody_else_has_it() {
        let text = |symbols: &Symbols, address: u64| {
            let mut text = String::new();
            symbols.stack(&mut text, &[address]);
            text
        };
        let (there, behind) = (0xffff_ffff_c020_0010, 0xffff_ffff_c020_9000);
        let mut symbols = Symbols::read(KALLSYMS.as_bytes()).unwrap();
        symbols.modules = modules(MODULES);
        // A program is loaded before where the module was.
        let program = "ffffffffc01ff000 t bpf_prog_1\t[bpf]\nffffffff81000000 T _text\n";
        let without = || Symbols::read(program.as_bytes()).unwrap();
        symbols.replace(without(), modules(""));
        assert_eq!(text(&symbols, there), "ovl_copy_up_one+0x10 [overlay]");
        assert_eq!(
            text(&symbols, 0xffff_ffff_c01f_f010),
            "bpf_prog_1+0x10 [bpf]"
        );
        assert_eq!(text(&symbols, behind), "0xffffffffc0209000");
        // Another comes where it was.
        let mut other = without();
        other.learn("ffffffffc01ff800 t other\t[other]");
        symbols.replace(other, modules("other 8192 0 - Live 0xffffffffc01ff800\n"));
        assert_eq!(text(&symbols, there), "other+0x810 [other]");
        symbols.replace(without(), modules(""));
        assert_eq!(text(&symbols, there), "other+0x810 [other]");
    }
}
