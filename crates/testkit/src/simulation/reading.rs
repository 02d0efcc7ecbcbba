//! What a client knows of a generation that it reads.

use serde_json::Value;
use tokenwire_core::dialect::Dialect;

use super::model::is_terminal;
use super::view::View;
use crate::framing::Line;

/// A client's state of one generation, over all its connections.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The number of the generation.
    pub generation: usize,
    /// The dialect of all its connections.
    pub dialect: Dialect,
    /// The number of the last event that was applied.
    pub applied: Option<u64>,
    /// The same when the connection began. A record may have several chat chunks of one number.
    known: Option<u64>,
    /// The answer's text so far.
    text: String,
    /// Whether no event was left out on purpose.
    pub is_whole: bool,
    /// How it ended, once it has.
    pub ended: Option<End>,
}

/// How a generation ended, as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its answer, whole or cut by a limit.
    Answered,
    /// The process that wrote it has crashed.
    ProducerLost,
    /// It failed, or was cancelled.
    Failed,
}

// === impl Reading ===

impl Reading {
    /// Begins to read a generation of this number.
    #[must_use]
    pub fn new(generation: usize, view: View) -> Self {
        Self {
            generation,
            dialect: view.dialect(),
            applied: None,
            known: None,
            text: String::new(),
            is_whole: true,
            ended: None,
        }
    }

    /// Begins a connection that reads after this number, which may be ahead of what was applied.
    pub fn connect(&mut self, after: Option<u64>) {
        if self.dialect == Dialect::Text {
            // A reader without numbers begins again.
            self.text.clear();
            return;
        }
        let is_ahead = after > self.applied;
        self.is_whole &= !is_ahead;
        self.known = self.applied.filter(|_| !is_ahead);
    }

    /// Applies a frame by the client rule: if its number is greater than the last one applied.
    ///
    /// # Errors
    /// What is wrong with the frame.
    pub fn apply(&mut self, line: &Line) -> Result<(), String> {
        if self.dialect == Dialect::Text {
            self.text.push_str(&line.data);
            return Ok(());
        }
        if self.known.is_some_and(|known| line.seq <= known) {
            return Ok(());
        }
        if self.ended.is_some() && line.data != "[DONE]" {
            return Err("a frame follows the terminal event".to_owned());
        }
        self.applied = Some(
            self.applied
                .map_or(line.seq, |applied| applied.max(line.seq)),
        );
        if line.data == "[DONE]" {
            if self.dialect == Dialect::Chat {
                self.ended = Some(End::Answered);
            }
            return Ok(());
        }
        let event: Value = serde_json::from_str(&line.data)
            .map_err(|error| format!("the payload of {} is not JSON: {error}", line.seq))?;
        match self.dialect {
            Dialect::Responses => self.apply_event(line, &event),
            _ => self.apply_chunk(&event),
        }
    }

    fn apply_event(&mut self, line: &Line, event: &Value) -> Result<(), String> {
        if event["sequence_number"] != line.seq {
            return Err(format!(
                "event {} has number {}",
                line.seq, event["sequence_number"]
            ));
        }
        if event["type"] == "response.output_text.delta" {
            self.text
                .push_str(event["delta"].as_str().unwrap_or_default());
        }
        if is_terminal(line) {
            self.end_with(&event["response"])?;
        }
        Ok(())
    }

    fn apply_chunk(&mut self, chunk: &Value) -> Result<(), String> {
        if !chunk["error"].is_null() {
            self.ended = Some(if chunk["error"]["code"] == "producer_lost" {
                End::ProducerLost
            } else {
                End::Failed
            });
        }
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            self.text
                .push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        }
        Ok(())
    }

    /// Ends with the response object of a terminal event or a reset.
    fn end_with(&mut self, object: &Value) -> Result<(), String> {
        let text = output_text(object);
        let end = match object["status"].as_str() {
            Some("failed") if object["error"]["code"] == "producer_lost" => End::ProducerLost,
            Some("failed" | "cancelled") => End::Failed,
            _ => End::Answered,
        };
        self.ended = Some(end);
        let agrees = if end == End::ProducerLost {
            self.text.starts_with(&text)
        } else {
            self.text == text
        };
        if self.is_whole && !agrees {
            return Err(format!(
                "the reader has {:?}, the object {text:?}",
                self.text
            ));
        }
        Ok(())
    }

    /// Applies a `tokenwire:reset`, which replaces everything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reset(&mut self, seq: u64, event: &[u8]) -> Result<(), String> {
        let event: Value = serde_json::from_slice(event)
            .map_err(|error| format!("a reset is not JSON: {error}"))?;
        let object = &event["response"];
        if event["sequence_number"] != seq {
            return Err(format!(
                "the reset of {seq} has number {}",
                event["sequence_number"]
            ));
        }
        self.text = output_text(object);
        self.applied = Some(seq);
        self.known = None;
        self.is_whole = self.dialect == Dialect::Responses;
        if !matches!(object["status"].as_str(), Some("queued" | "in_progress")) {
            self.end_with(object)?;
        }
        Ok(())
    }

    /// Checks the text of a reading that has ended against what the upstream delivered. `was_cut` says
    /// whether a writer of the answer was lost.
    ///
    /// # Errors
    /// The difference.
    pub fn check(&self, delivered: &str, was_cut: bool) -> Result<(), String> {
        let agrees = if was_cut {
            delivered.starts_with(&self.text)
        } else {
            self.text == delivered
        };
        if self.is_whole && !agrees {
            return Err(format!(
                "the reader has {:?}, the upstream sent {delivered:?}",
                self.text
            ));
        }
        if was_cut && self.ended == Some(End::Failed) && self.is_whole {
            return Err("a crash is not shown as producer_lost".to_owned());
        }
        Ok(())
    }
}

/// Returns the text of all messages of a response object.
#[must_use]
pub fn output_text(object: &Value) -> String {
    let items = object["output"].as_array().into_iter().flatten();
    let parts = items
        .filter_map(|item| item["content"].as_array())
        .flatten();
    let texts = parts.filter(|part| part["type"] == "output_text");
    texts.filter_map(|part| part["text"].as_str()).collect()
}
