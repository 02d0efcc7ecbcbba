//! Relays the events of a Responses upstream, with the gateway's ids and numbers.

use crate::model::error::ErrorCode;
use crate::model::event::{ChatHint, Ending, EventKind, Failure, Outcome, Relayed};
use crate::model::id::GenerationId;
use crate::model::json::{self, Members};

use super::chunk::UpstreamFault;
use super::hints::ChatHints;
use super::{BodyEnd, Progress, RecordWriter, Translated, failed};

/// The state of one Responses stream.
pub struct ResponsesTranslator {
    id: String,
    previous: String,
    started: bool,
    hints: ChatHints,
    fault: Option<Failure>,
    /// The upstream's terminal response object, with the gateway's ids.
    last: Option<String>,
}

impl std::fmt::Debug for ResponsesTranslator {
    /// Omits the response object.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponsesTranslator")
            .field("id", &self.id)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl ResponsesTranslator {
    /// Creates a translator for the generation with this id and previous response.
    #[must_use]
    pub fn new(id: &GenerationId, previous_response_id: Option<&str>) -> Self {
        let previous = previous_response_id.map_or_else(
            || "null".to_owned(),
            |id| format!("\"{}\"", json::escape(id)),
        );
        Self {
            id: format!("\"{id}\""),
            previous,
            started: false,
            hints: ChatHints::default(),
            fault: None,
            last: None,
        }
    }

    /// Returns true once the upstream has sent anything.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }

    /// Translates one payload. The event's `type` member counts, not the SSE event's name.
    pub fn payload(
        &mut self,
        data: &[u8],
        terminated: bool,
        records: &mut RecordWriter,
    ) -> Translated {
        let data = data.trim_ascii();
        if data.is_empty() {
            return Translated {
                progress: self.progress(),
                tokens: false,
            };
        }
        if data == b"[DONE]" {
            return over(self.body_ended(BodyEnd::Clean));
        }
        let Ok(text) = std::str::from_utf8(data) else {
            return over(failed(
                ErrorCode::UpstreamInvalidUtf8,
                "The upstream sent an event that is not valid UTF-8.",
            ));
        };
        let members: Members<'_> = match serde_json::from_str(text) {
            Ok(members) => members,
            Err(_) if !terminated => return over(truncated()),
            Err(error) => {
                let message = format!(
                    "The upstream sent an event that is not a JSON object (column {} of {} bytes).",
                    error.column(),
                    text.len()
                );
                return over(failed(ErrorCode::UpstreamMalformed, message));
            }
        };
        self.event(&members, data, records)
    }

    /// Returns the ending of a body without a terminal event.
    #[must_use]
    pub fn body_ended(&self, end: BodyEnd) -> Ending {
        match (&self.fault, end) {
            (Some(failure), _) => Ending::Failed(failure.clone()),
            (None, BodyEnd::Broken) => failed(
                ErrorCode::UpstreamTruncated,
                "The connection to the upstream broke in the middle of the answer.",
            ),
            (None, _) => truncated(),
        }
    }

    /// Writes the terminal event.
    pub fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        let relayed = self.last.take();
        let usage = relayed.as_deref().and_then(|object| {
            serde_json::from_str::<Members<'_>>(object)
                .ok()?
                .get("usage")
                .map(|raw| raw.get().to_owned())
        });
        records.event(EventKind::End(Outcome {
            ending,
            at,
            usage,
            relayed,
        }));
        records.record(None);
    }

    fn event(
        &mut self,
        members: &Members<'_>,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> Translated {
        let name = members.text("type").unwrap_or_default();
        let response = members.object("response").map(|response| {
            response.write_with(&[("id", &self.id), ("previous_response_id", &self.previous)])
        });
        match &*name {
            "response.created" | "response.queued" | "response.in_progress" => {
                if !self.started {
                    self.started = true;
                    self.relay_first(response, records);
                }
                return Translated {
                    progress: self.progress(),
                    tokens: false,
                };
            }
            "response.completed"
            | "response.incomplete"
            | "response.failed"
            | "response.cancelled" => {
                if !self.started {
                    self.started = true;
                    records.event(EventKind::InProgress);
                }
                self.last = response;
                return over(self.terminal(&name, members));
            }
            // An error without a type: a server that failed before its stream, under HTTP 200.
            "error" | "" if name == "error" || members.get("error").is_some() => {
                let fault = match members.get("error") {
                    Some(error) => UpstreamFault::read(error),
                    None => UpstreamFault {
                        code: members.text("code").map(Into::into),
                        message: members.text("message").map(Into::into),
                    },
                };
                self.fault.get_or_insert(fault.into());
                self.started = true;
                records.record(Some(data));
                return Translated {
                    progress: Progress::Finished,
                    tokens: false,
                };
            }
            _ => {}
        }
        if !self.started {
            self.started = true;
            records.event(EventKind::InProgress);
        }
        if !name.starts_with("response.") {
            // An unknown event such as `keepalive`, on which the SDKs raise: it becomes an extension
            // event.
            records.record(Some(data));
            return Translated {
                progress: self.progress(),
                tokens: false,
            };
        }
        let chat = self.hints.of(&name, members);
        let number = records.next_seq().to_string();
        let json = match &response {
            Some(response) => {
                members.write_with(&[("sequence_number", &number), ("response", response)])
            }
            None => members.write_with(&[("sequence_number", &number)]),
        };
        records.event(EventKind::Relayed(Relayed {
            name: name.clone().into_owned(),
            json,
            chat,
        }));
        records.record(None);
        Translated {
            progress: self.progress(),
            tokens: name.ends_with(".delta"),
        }
    }

    /// Relays the first event as `response.in_progress`: the gateway sends `response.created` itself,
    /// before the upstream is asked.
    fn relay_first(&self, response: Option<String>, records: &mut RecordWriter) {
        let Some(members) = response
            .as_deref()
            .and_then(|object| serde_json::from_str::<Members<'_>>(object).ok())
        else {
            records.event(EventKind::InProgress);
            records.record(None);
            return;
        };
        let response = members.write_with(&[("status", "\"in_progress\"")]);
        let json = format!(
            r#"{{"type":"response.in_progress","sequence_number":{},"response":{response}}}"#,
            records.next_seq()
        );
        records.event(EventKind::Relayed(Relayed {
            name: "response.in_progress".to_owned(),
            json,
            chat: ChatHint::Role,
        }));
        records.record(None);
    }

    fn terminal(&self, name: &str, members: &Members<'_>) -> Ending {
        let response = members.object("response").unwrap_or_default();
        match name {
            "response.completed" => Ending::Completed {
                tool_calls: self.hints.calls() > 0 || calls_something(&response),
            },
            "response.incomplete" => {
                let reason = response
                    .object("incomplete_details")
                    .and_then(|details| details.text("reason").map(Into::into));
                Ending::Incomplete {
                    reason: reason.unwrap_or_else(|| "max_output_tokens".to_owned()),
                }
            }
            "response.cancelled" => Ending::Cancelled,
            _ => match (response.get("error"), &self.fault) {
                (Some(error), _) => Ending::Failed(UpstreamFault::read(error).into()),
                (None, Some(failure)) => Ending::Failed(failure.clone()),
                (None, None) => failed(
                    ErrorCode::UpstreamError,
                    "The upstream reported that the response failed.",
                ),
            },
        }
    }

    fn progress(&self) -> Progress {
        if self.fault.is_some() {
            Progress::Finished
        } else {
            Progress::Open
        }
    }
}

/// Returns true if the response object has a function call.
fn calls_something(response: &Members<'_>) -> bool {
    response.objects("output").iter().any(|item| {
        item.text("type")
            .is_some_and(|kind| kind == "function_call")
    })
}

fn over(ending: Ending) -> Translated {
    Translated {
        progress: Progress::Over(ending),
        tokens: false,
    }
}

fn truncated() -> Ending {
    failed(
        ErrorCode::UpstreamTruncated,
        "The upstream's stream ended without a terminal event.",
    )
}
