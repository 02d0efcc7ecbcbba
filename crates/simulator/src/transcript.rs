//! An answer as a sequence of events, spelled one at a time, so that a long stream is never held
//! whole.

/// A streamed answer in one of the dialects.
pub(crate) trait Transcript: Send {
    /// What the next event is, without making it; `None` when all were made.
    fn peek(&self) -> Option<Beat>;

    /// The name of the next event's `event:` line, where the dialect has such lines.
    fn name(&self) -> Option<&'static str>;

    /// Appends the JSON of the next event to `out`.
    fn write(&mut self, out: &mut Vec<u8>);

    /// The events that say that the stream has failed, each with its name.
    fn failure(&mut self) -> Vec<(Option<&'static str>, Vec<u8>)>;
}

/// When an event is due, and what it is to the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Leaves at once.
    Now,
    /// Leaves together with the token after it.
    Lead,
    /// Is a token.
    Token,
    /// Says how the answer ends; a fault that has not struck by then strikes before it.
    Finish,
    /// Stands after the end.
    Trail,
    /// Is `[DONE]`.
    Done,
}

/// Appends `text` as a JSON string.
pub(crate) fn escape(text: &str, out: &mut Vec<u8>) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}
