//! An answer as a sequence of events, produced one at a time, so a long stream is never held
//! whole.

/// A streamed answer in one of the dialects.
pub(crate) trait Transcript: Send {
    /// Returns the kind of the next event, or `None` after the last.
    fn peek(&self) -> Option<Beat>;

    /// Returns the name for the `event:` line of the next event, if the dialect has such lines.
    fn name(&self) -> Option<&'static str>;

    /// Appends the JSON of the next event to `out`.
    fn write(&mut self, out: &mut Vec<u8>);

    /// Returns the events that report a failure of the stream, each with its name.
    fn failure(&mut self) -> Vec<(Option<&'static str>, Vec<u8>)>;
}

/// When an event is due, and its role for faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Sent at once.
    Now,
    /// Sent together with the following token.
    Lead,
    /// A token.
    Token,
    /// Reports how the answer ends. A fault that is still pending occurs before it.
    Finish,
    /// Follows the end.
    Trail,
    /// `[DONE]`.
    Done,
}

/// Appends `text` as a JSON string.
pub(crate) fn escape(text: &str, out: &mut Vec<u8>) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}
