//! Any bytes as a record: refused, or printed in every format without harm to the
//! terminal or to who reads the JSON.

#![no_main]

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use nstrace::{
    cgroups::Cgroups,
    decode::decode,
    event::Event,
    explain::Facts,
    render::{Format, Printer, Text, View},
};
use zerocopy::IntoBytes;

fuzz_target!(|bytes: &[u8]| {
    let words = aligned(bytes);
    if let Ok(event) = decode(words.as_bytes()) {
        print(&event);
    }
});

/// A copy that is aligned to 8 bytes, as the records of a ring buffer are.
fn aligned(bytes: &[u8]) -> Vec<u64> {
    let (words, rest) = bytes.as_chunks();
    let mut words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.push(u64::from_ne_bytes(last));
    words
}

fn print(event: &Event) {
    let mut printer = Printer::new(TimeZone::UTC);
    let mut cgroups = Cgroups::default();
    if let Event::Cgroup(cgroup) = event {
        cgroups.learn(cgroup.id, cgroup.path);
    }
    let facts = Facts::default();
    let mut out = Text::new();
    for format in [Format::Line, Format::Path, Format::Json] {
        for (color, facts) in [(false, None), (false, Some(&facts)), (true, Some(&facts))] {
            let view = View {
                wall_offset_ns: 1_800_000_000_000_000_000,
                cgroups: &cgroups,
                facts,
                origin: None,
                color,
                all: color,
            };
            out.clear();
            printer.event(format, &mut out, event, &view);
            check(format, &out.to_string(), color);
        }
    }
}

fn check(format: Format, out: &str, color: bool) {
    assert!(
        out.is_empty() || out.ends_with('\n'),
        "whole lines: {out:?}"
    );
    let is_ours = |c: char| c == '\n' || color && c == '\x1b';
    assert!(
        !out.chars().any(|c| c.is_control() && !is_ours(c)),
        "{out:?}"
    );
    if format == Format::Json {
        for line in out.lines() {
            let value: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(value.is_ok_and(|value| value.is_object()), "{line}");
        }
    }
}
