//! Values of options: what may be said, and what is said of what may not.

use std::{ffi::OsString, time::Duration};

use nstrace_common::{kind::Kind, mount_ops::Call, wire::Op};

use super::{OpName, Rotate};

pub(super) fn kind(name: &str) -> Result<Kind, String> {
    Kind::from_name(name).ok_or_else(|| {
        let names = Kind::ALL.map(Kind::name).join(" ");
        format!("there is no such kind of namespaces; there are: {names}")
    })
}

/// The name of a type of file system: of longer ones the kernel side does not know all. The
/// longest in v6.12 is `binfmt_misc`.
pub(super) fn fs_type(name: &str) -> Result<[u8; 16], String> {
    let mut bytes = [0; 16];
    match name.len() {
        1..=15 => {
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            Ok(bytes)
        }
        _ => Err(
            "the name of a type of file system has 1 to 15 bytes; several are said one by one, \
             each with the option"
                .to_owned(),
        ),
    }
}

/// A word that is not empty.
pub(super) fn named(word: OsString) -> Result<OsString, &'static str> {
    match word.is_empty() {
        true => Err("a path, a block device, or MAJOR:MINOR"),
        false => Ok(word),
    }
}

/// The kernel keeps 15 bytes of a name (`TASK_COMM_LEN`).
pub(super) fn comm(name: OsString) -> Result<OsString, String> {
    match name.len() {
        1..=15 => Ok(name),
        _ => Err("a task's name has 1 to 15 bytes".to_owned()),
    }
}

pub(super) fn op(name: &str) -> Result<OpName, String> {
    let own = OpName {
        op: Op::from_name(name),
        call: Call::from_name(name),
    };
    if own.op.is_some() || own.call.is_some() {
        return Ok(own);
    }
    let ops = Op::ALL.map(Op::name);
    let calls = Call::ALL.map(Call::name);
    let more = calls.iter().filter(|name| !ops.contains(name));
    let names: Vec<&str> = ops.iter().chain(more).copied().collect();
    Err(format!(
        "there is no such operation; there are: {}",
        names.join(" ")
    ))
}

/// Numbers and units: `1s`, `250ms`, `1.5s`, `2m`, `1m30s`.
pub(crate) fn length(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Some(Duration::ZERO),
        "" => None,
        _ => sum(text),
    }
    .ok_or_else(|| "a length is a number and a unit: ns us ms s m h, as 250ms or 1m30s".to_owned())
}

fn sum(mut parts: &str) -> Option<Duration> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut sum = Duration::ZERO;
    while !parts.is_empty() {
        let (number, rest) = parts.split_at(parts.find(|c| !is_number(c))?);
        let (unit, rest) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
        let seconds = number.parse::<f64>().ok()? * unit_s(unit)?;
        sum = sum.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        parts = rest;
    }
    Some(sum)
}

/// A unit of length, in s.
fn unit_s(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

/// A number of bytes, with K, M or G for powers of 1024.
pub(super) fn size(text: &str) -> Result<u32, String> {
    let bytes = bytes(text).filter(|bytes| (4096..=1 << 30).contains(bytes));
    bytes
        .map(|bytes| bytes as u32)
        .ok_or_else(|| "a size is a number of bytes from 4096 to 1G, with K, M or G".to_owned())
}

/// The same, of a file.
pub(super) fn large_size(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|bytes| *bytes >= 16 << 10)
        .ok_or_else(|| "a size is a number of bytes, 16K or more, with K, M, G or T".to_owned())
}

fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

pub(super) fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a number from 1 on".to_owned())
}

/// Shorter ones would have hardly more in them than what is known when they begin.
const SPAN_MIN: Duration = Duration::from_millis(100);

/// The length of a flight.
pub(super) fn flight(text: &str) -> Result<Duration, String> {
    let span = length(text)?;
    let is_long = span >= SPAN_MIN;
    is_long
        .then_some(span)
        .ok_or_else(|| "a length of 100 ms or more".to_owned())
}

/// A size or a length: `10m` is ten minutes, and `10M` a size.
pub(super) fn rotate(text: &str) -> Result<Rotate, String> {
    if let Ok(age) = length(text) {
        return match age < SPAN_MIN {
            true => Err("a length of 100 ms or more".to_owned()),
            false => Ok(Rotate::Age(age)),
        };
    }
    let size = large_size(text).map(Rotate::Size);
    size.map_err(|_| "a size from 16K on as 100M or 2G, or a length as 10m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_numbers_with_units() {
        for (text, ms) in [
            ("0", 0),
            ("250ms", 250),
            ("1.5s", 1500),
            ("1m30s", 90_000),
            ("2h0.5s", 7_200_500),
        ] {
            assert_eq!(length(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "1m30",
            "m",
            "1.2.3s",
            "-1s",
            "1 s",
            "1d",
            "1e3s",
            "99999999999999999999h",
        ] {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
