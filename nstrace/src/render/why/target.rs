//! What `nstrace why` is asked about.

use std::str::FromStr;

use nstrace_common::kind::Kind;

use crate::render::escape::Escaped;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A namespace: `mnt:4026532276`, or `mnt:[4026532276]` as in `/proc/PID/ns`.
    Namespace(Kind, u32),
    /// A process, by its id in the first pid namespace.
    Process(u32),
    /// A container, by its name, its id, or the beginning of that.
    Container(String),
}

/// What is wrong with the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There are none.
    #[error("nothing to look for: say KIND:INUM, PID or CONTAINER")]
    Empty,
    /// The number is none.
    #[error(
        "`{}`: no number of a namespace after `{kind}:`; `readlink /proc/PID/ns/{kind}` says it",
        Escaped(.text.as_bytes())
    )]
    Number {
        /// The words.
        text: String,
        /// The kind that they begin with.
        kind: &'static str,
    },
    /// The kind is none.
    #[error(
        "`{}`: no such kind of namespace; there are mnt uts ipc pid net user cgroup time",
        Escaped(.0.as_bytes())
    )]
    Kind(String),
    /// No process has it.
    #[error("0 is no process id")]
    Zero,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if let Some((kind, number)) = text.split_once(':') {
            let inum = inum(number);
            match (Kind::from_name(kind), inum) {
                (Some(kind), Some(inum)) => return Ok(Target::Namespace(kind, inum)),
                (Some(kind), None) => {
                    return Err(TargetError::Number {
                        text: text.into(),
                        kind: kind.name(),
                    });
                }
                (None, Some(_)) => return Err(TargetError::Kind(text.into())),
                (None, None) => {}
            }
        }
        // Ids of containers may begin with many decimal digits.
        match text.parse() {
            Ok(0) => Err(TargetError::Zero),
            Ok(pid) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Target::Process(pid)),
            _ => Ok(Target::Container(text.into())),
        }
    }
}

fn inum(text: &str) -> Option<u32> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let digits = bare.unwrap_or(text);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|inum| is_number && *inum > 0)
}
