//! The resume table: what a reader gets that comes back at a position.
//!
//! | a reader comes back after event n, and | [`EventSource`] | [`Sdk`] | [`WebSocket`] |
//! | --- | --- | --- | --- |
//! | n is in the log, or absent | [`Read`] | [`Read`] | [`Read`] |
//! | the log is sealed and nothing is left after n | [`NothingLeft`] | [`NothingLeft`] | [`NothingLeft`] |
//! | the log is gone, the response object is not | [`Reset`] | `position_gone` | [`Reset`] |
//! | n is past the head of a sealed log | [`Reset`] | `invalid_cursor` | [`Reset`] |
//! | n is past the head of a running log | [`Read`] | [`Read`] | [`Read`] |
//! | the node that wrote it is lost, n is not [`LOST_SEQ`] | [`Lost`] | `producer_lost` | [`Lost`] |
//! | the node that wrote it is lost, n is [`LOST_SEQ`] | [`NothingLeft`] | `producer_lost` | [`NothingLeft`] |
//! | n was lost, and only the ending follows | [`Read`] | [`Read`] | [`Read`] |
//! | n was lost: it is above the end of an epoch and below the next | [`Read`] | `position_gone` | [`Read`] |
//! | the id is unknown, or another owner's | `not_found` | `not_found` | `not_found` |
//!
//! A [`Read`] past the head waits for the first event above n or the terminal event, whichever comes
//! first. After a [`Reset`] nothing follows. A [`Read`] after a lost number begins with
//! `tokenwire:reset`, which the subscription writes, for readers that take it.
//!
//! An adapter turns the result into a status and frames, and decides nothing.
//!
//! [`EventSource`]: ReaderKind::EventSource
//! [`Sdk`]: ReaderKind::Sdk
//! [`WebSocket`]: ReaderKind::WebSocket
//! [`Read`]: Resumption::Read
//! [`NothingLeft`]: Resumption::NothingLeft
//! [`Reset`]: Resumption::Reset
//! [`Lost`]: Resumption::Lost
//! [`LOST_SEQ`]: super::LOST_SEQ

use std::sync::Arc;

use super::Engine;
use super::directory::Part;
use super::lost_stream::{LOST_SEQ, LostStream, producer_lost};
use crate::generation::{Generation, ReaderGuard};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::{GenerationId, Owner, Seq};

/// A position in a generation's log, as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The generation.
    pub id: GenerationId,
    /// The number of the last event that was seen; `None` to read from the first.
    pub after: Option<u64>,
}

/// How a reader learns that a position cannot be continued: a column of the [table](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderKind {
    /// Framing with ids. Takes `tokenwire:reset`.
    EventSource,
    /// Framing without ids, JSON and bare text. Takes an error before the head.
    Sdk,
    /// A WebSocket. Takes `tokenwire:reset`.
    WebSocket,
}

/// What a reader gets: a cell of the [table](self) that is no error.
#[derive(Debug)]
pub enum Resumption {
    /// Events from this number on.
    Read {
        /// Counts the reader.
        guard: ReaderGuard,
        /// The first event.
        from: Seq,
    },
    /// The reader has seen the end.
    NothingLeft {
        /// The generation, if anything of it is kept.
        generation: Option<Arc<Generation>>,
    },
    /// `tokenwire:reset`.
    Reset {
        /// The generation, whose [`Generation::reset_frame`] is the event.
        generation: Arc<Generation>,
    },
    /// `response.failed` of a lost node's stream, after which nothing follows.
    Lost(LostStream),
}

/// The place of a cursor in a log: a [`Resumption`] without a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Events from this number on.
    Read(Seq),
    /// Nothing follows.
    NothingLeft,
    /// `tokenwire:reset` follows.
    Reset,
    /// `response.failed` of a lost node's stream follows.
    Lost,
}

// === impl Cursor ===

impl Cursor {
    /// The start of a generation's log.
    #[must_use]
    pub fn start(id: GenerationId) -> Self {
        Self { id, after: None }
    }

    /// Parses an event's id, `<response id>.<number>`, as `Last-Event-ID` carries it.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidCursor`].
    pub fn from_event_id(text: &str) -> Result<Self, ApiError> {
        let parsed = text.split_once('.').and_then(|(id, number)| {
            Some(Self {
                id: id.parse().ok()?,
                after: Some(parse_number(number)?),
            })
        });
        parsed.ok_or_else(|| {
            let shown: String = text.chars().take(128).collect();
            ApiError::new(
                ErrorCode::InvalidCursor,
                format!("The Last-Event-ID '{shown}' is not of the form '<response id>.<number>'."),
            )
            .param("Last-Event-ID")
        })
    }

    /// Parses the number of the last event seen, as the query parameter `name` carries it.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidCursor`] that names the parameter.
    pub fn from_query(
        id: GenerationId,
        name: &'static str,
        value: Option<&str>,
    ) -> Result<Self, ApiError> {
        let after = match value {
            None => None,
            Some(text) => Some(parse_number(text).ok_or_else(|| {
                let shown: String = text.chars().take(64).collect();
                ApiError::new(
                    ErrorCode::InvalidCursor,
                    format!(
                        "'{name}' is '{shown}', but must be the number of an event, 0 or more."
                    ),
                )
                .param(name)
            })?),
        };
        Ok(Self { id, after })
    }

    /// The same cursor, if it is one of this generation.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidCursor`].
    pub fn of(self, id: &GenerationId) -> Result<Self, ApiError> {
        if self.id == *id {
            return Ok(self);
        }
        let message = format!(
            "The Last-Event-ID is of the stream '{}', but '{id}' was asked for.",
            self.id
        );
        Err(ApiError::new(ErrorCode::InvalidCursor, message).param("Last-Event-ID"))
    }
}

fn parse_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

// === impl ReaderKind ===

impl ReaderKind {
    const fn takes_reset(self) -> bool {
        match self {
            Self::EventSource | Self::WebSocket => true,
            Self::Sdk => false,
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Applies the [table](self) to a reader that comes back at this cursor.
    ///
    /// # Errors
    /// The errors of the table.
    pub async fn resume(
        &self,
        cursor: &Cursor,
        owner: &Owner,
        kind: ReaderKind,
    ) -> Result<Resumption, ApiError> {
        let result = self.resumption(cursor, owner, kind).await;
        if let Some(observer) = &self.observer {
            observer.resumed(cursor.after, &result);
        }
        result
    }

    async fn resumption(
        &self,
        cursor: &Cursor,
        owner: &Owner,
        kind: ReaderKind,
    ) -> Result<Resumption, ApiError> {
        let found = self.find_or_lost(&cursor.id, owner, Part::Log).await?;
        let Some(generation) = found else {
            return lost(cursor, kind);
        };
        let had_log = generation.tail().is_ok();
        let mut guard = generation.attach();
        if had_log && guard.generation().tail().is_err() {
            // Its log has expired since it was found, and may be in the store.
            let again = self.find_or_lost(&cursor.id, owner, Part::Log).await?;
            let Some(generation) = again else {
                return lost(cursor, kind);
            };
            guard = generation.attach();
        }
        self.read(guard, cursor.after, kind)
    }

    /// Applies the [table](self) to a reader that is counted already, such as the one of
    /// [`Started`](super::Started), and has seen events up to `after`.
    ///
    /// # Errors
    /// The errors of the table.
    pub fn read(
        &self,
        guard: ReaderGuard,
        after: Option<u64>,
        kind: ReaderKind,
    ) -> Result<Resumption, ApiError> {
        let generation = guard.generation().clone();
        Ok(match self.place(&generation, after, kind)? {
            Place::Read(from) => Resumption::Read { guard, from },
            Place::NothingLeft => Resumption::NothingLeft {
                generation: Some(generation),
            },
            Place::Reset => Resumption::Reset { generation },
            Place::Lost => Resumption::Lost(LostStream::new(&generation.meta().id)),
        })
    }

    /// Applies the [table](self) to this cursor without a reader, as for a HEAD.
    ///
    /// # Errors
    /// The errors of the table.
    pub async fn peek(
        &self,
        cursor: &Cursor,
        owner: &Owner,
        kind: ReaderKind,
    ) -> Result<Place, ApiError> {
        let found = self.find_or_lost(&cursor.id, owner, Part::Log).await?;
        let Some(generation) = found else {
            return lost_place(cursor, kind);
        };
        self.place(&generation, cursor.after, kind)
    }

    fn place(
        &self,
        generation: &Generation,
        after: Option<u64>,
        kind: ReaderKind,
    ) -> Result<Place, ApiError> {
        let Ok(tail) = generation.tail() else {
            if generation.is_lost_with_its_node() {
                let id = generation.meta().id.clone();
                return lost_place(&Cursor { id, after }, kind);
            }
            let last = self.registry.directory.last_seq(&generation.meta().id);
            if after.is_some() && after == last {
                return Ok(Place::NothingLeft);
            }
            return if kind.takes_reset() {
                Ok(Place::Reset)
            } else {
                Err(position_gone(&generation.meta().id))
            };
        };
        let from = Seq(after.map_or(0, |after| after.saturating_add(1)));
        if let Some(after) = after.map(Seq).filter(|after| generation.is_lost(*after)) {
            return if kind.takes_reset() || generation.only_ending_follows(after) {
                Ok(Place::Read(from))
            } else {
                Err(position_gone(&generation.meta().id))
            };
        }
        if !tail.sealed || from < tail.next {
            return Ok(Place::Read(from));
        }
        if from == tail.next {
            return Ok(Place::NothingLeft);
        }
        if kind.takes_reset() {
            Ok(Place::Reset)
        } else {
            Err(past_head(Seq(tail.next.0.saturating_sub(1))))
        }
    }
}

/// The rows of a lost node's stream.
fn lost(cursor: &Cursor, kind: ReaderKind) -> Result<Resumption, ApiError> {
    Ok(match lost_place(cursor, kind)? {
        Place::NothingLeft => Resumption::NothingLeft { generation: None },
        Place::Lost | Place::Read(_) | Place::Reset => {
            Resumption::Lost(LostStream::new(&cursor.id))
        }
    })
}

fn lost_place(cursor: &Cursor, kind: ReaderKind) -> Result<Place, ApiError> {
    if !kind.takes_reset() {
        Err(producer_lost(&cursor.id))
    } else if cursor.after == Some(LOST_SEQ.0) {
        Ok(Place::NothingLeft)
    } else {
        Ok(Place::Lost)
    }
}

/// Returns the error of a reader whose log is gone.
#[must_use]
pub fn position_gone(id: &GenerationId) -> ApiError {
    ApiError::new(
        ErrorCode::PositionGone,
        format!(
            "The events of '{id}' are not kept any more; the response object, if it is: GET /v1/responses/{id}."
        ),
    )
}

fn past_head(head: Seq) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidCursor,
        format!("The position lies past the last event, which is number {head}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_parse_and_malformed_ones_are_refused() {
        for (text, expected) in [
            ("resp_abc.7", Some(7)),
            ("resp_abc.0", Some(0)),
            ("resp_abc", None),
            ("resp_abc.", None),
            ("resp_abc.-1", None),
            ("resp_abc.+1", None),
            ("resp_abc.1.2", None),
            ("other.1", None),
            ("resp_abc.99999999999999999999", None),
        ] {
            assert_eq!(
                Cursor::from_event_id(text)
                    .ok()
                    .and_then(|cursor| cursor.after),
                expected,
                "{text}"
            );
        }
    }
}
