//! Which functions of the kernel tasks are in at this moment, as `/proc/TID/stack` tells root.

use std::fs;

/// How many tasks are in each of some functions. None if that is not told: it takes root, and a
/// kernel that was built with `CONFIG_STACKTRACE`.
pub fn inside(functions: &[&[u8]]) -> Option<Vec<usize>> {
    fs::read("/proc/thread-self/stack").ok()?;
    let mut counts = vec![0; functions.len()];
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let is_process = name
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        // It may have ended.
        let tasks = fs::read_dir(process.path().join("task"));
        for task in tasks.into_iter().filter(|_| is_process).flatten().flatten() {
            let stack = fs::read(task.path().join("stack")).unwrap_or_default();
            for (function, count) in functions.iter().zip(&mut counts) {
                *count += usize::from(has(&stack, function));
            }
        }
    }
    Some(counts)
}

/// Whether a line of a stack, `[<0>] FUNCTION+0xOFFSET/0xLENGTH [MODULE]`, is of a function.
fn has(stack: &[u8], function: &[u8]) -> bool {
    let frames = stack
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.splitn(2, |byte| *byte == b' ').nth(1));
    let mut names = frames.map(|frame| frame.split(|byte| *byte == b'+').next());
    names.any(|name| name == Some(function))
}

#[cfg(test)]
mod tests {
    use super::has;

    #[test]
    fn functions_are_found_whole() {
        let stack = b"[<0>] fuse_lookup+0x5c/0x1a0 [fuse]\n[<0>] filename_create+0xb5/0x180\n";
        assert!(has(stack, b"filename_create"));
        assert!(has(stack, b"fuse_lookup"));
        assert!(!has(stack, b"filename"));
        assert!(!has(stack, b"fuse"));
        assert!(!has(b"", b"filename_create"));
    }
}
