//! What stands out on a terminal, and how. Sixteen colours and no background but
//! for a loss: the terminal's owner chose the rest.

/// How a part of the text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Of less interest.
    Dim,
    /// A heading.
    Bold,
    /// A namespace that was made.
    New,
    /// A namespace that was entered.
    Entered,
    /// A failure.
    Failed,
    /// Why something failed, or hangs.
    Reason,
    /// What is missing from the output.
    Lost,
}

impl Style {
    /// The bytes that begin it.
    pub const fn begin(self) -> &'static str {
        match self {
            Style::Dim => "\x1b[2m",
            Style::Bold => "\x1b[1m",
            Style::New => "\x1b[32m",
            Style::Entered => "\x1b[36m",
            Style::Failed => "\x1b[1;31m",
            Style::Reason => "\x1b[33m",
            Style::Lost => "\x1b[1;37;41m",
        }
    }

    /// The bytes that end any.
    pub const END: &'static str = "\x1b[0m";
}
