//! The faults of an answer.

/// A fault and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// Tokens that are sent completely before the fault.
    pub(crate) after: u64,
    /// The status of [`FaultKind::Status`].
    pub(crate) code: u16,
    /// The seconds of its `Retry-After`.
    pub(crate) retry_after: Option<u64>,
    /// The bytes of the event of [`FaultKind::Oversize`].
    pub(crate) size: usize,
}

macro_rules! fault_kinds {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// The kind of a fault. The guide of the steering language describes each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum FaultKind { $($variant),* }

        impl FaultKind {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $name)),*];
        }
    };
}

fault_kinds! {
    Status = "status",
    Refuse = "refuse",
    StallHead = "stall_head",
    JsonError = "json_error",
    Html = "html",
    Stall = "stall",
    Cut = "cut",
    Reset = "reset",
    End = "end",
    Error = "error",
    Malformed = "malformed",
    BadUtf8 = "bad_utf8",
    Oversize = "oversize",
    NoDone = "no_done",
    Hang = "hang",
    Split = "split",
    Crlf = "crlf",
    Cr = "cr",
    NoSpace = "nospace",
    Bom = "bom",
    Comments = "comments",
    Multi = "multi",
    Gzip = "gzip",
}

impl FaultKind {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(kind, _)| *kind)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| *name)
    }

    pub(crate) fn names() -> String {
        Self::ALL
            .iter()
            .map(|(_, name)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Returns whether the fault occurs once, at a certain token, instead of shaping the whole body
    /// or its end.
    pub(crate) fn strikes_mid_body(self) -> bool {
        matches!(
            self,
            Self::Stall
                | Self::Cut
                | Self::Reset
                | Self::End
                | Self::Error
                | Self::Malformed
                | Self::BadUtf8
                | Self::Oversize
        )
    }
}
