//! How a simulated reader reads: its dialect, and what its framing shows.

use std::fmt;
use std::sync::Arc;

use tokenwire_core::dialect::{Dialect, Framing};
use tokenwire_core::engine::ReaderKind;

use super::dice::Dice;
use crate::framing::JsonLines;

/// A kind of reader. Two readers of one view get the same bytes of the same records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    dialect: u8,
    kind: u8,
}

const DIALECTS: [(Dialect, &str); 3] = [
    (Dialect::Responses, "responses"),
    (Dialect::Chat, "chat"),
    (Dialect::Text, "text"),
];
const KINDS: [(ReaderKind, &str); 3] = [
    (ReaderKind::EventSource, "eventsource"),
    (ReaderKind::Sdk, "sdk"),
    (ReaderKind::WebSocket, "websocket"),
];

impl View {
    /// The view that shows every event.
    pub const FULL: Self = Self {
        dialect: 0,
        kind: 0,
    };

    /// Draws a view.
    pub fn draw(dice: &mut Dice) -> Self {
        Self {
            dialect: *dice.pick(&[0, 0, 0, 1, 1, 1, 2]),
            kind: *dice.pick(&[0, 0, 1, 2]),
        }
    }

    /// Returns the view of this dialect with the same framing.
    #[must_use]
    pub fn with_dialect(self, dialect: Dialect) -> Self {
        let index = DIALECTS.iter().position(|(known, _)| *known == dialect);
        Self {
            dialect: index.unwrap_or(0) as u8,
            ..self
        }
    }

    /// Returns which JSON it shows.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        DIALECTS[usize::from(self.dialect)].0
    }

    /// Returns how the reader learns that a position cannot be continued.
    #[must_use]
    pub fn kind(self) -> ReaderKind {
        KINDS[usize::from(self.kind)].0
    }

    /// Returns true if no event is hidden, so that numbers have no gaps but the log's.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.dialect() == Dialect::Responses && self.kind() != ReaderKind::Sdk
    }

    /// Returns true if frames have numbers that a reader can come back with.
    #[must_use]
    pub fn is_numbered(self) -> bool {
        self.dialect() != Dialect::Text
    }

    /// Returns how its frames are written.
    #[must_use]
    pub fn framing(self) -> Arc<dyn Framing> {
        let is_sdk = self.kind() == ReaderKind::Sdk;
        Arc::new(JsonLines {
            extensions: !is_sdk,
            done: is_sdk || self.dialect() == Dialect::Chat,
            shared: true,
        })
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dialect = DIALECTS[usize::from(self.dialect)].1;
        write!(f, "{dialect}/{}", KINDS[usize::from(self.kind)].1)
    }
}
