//! Relays the events of a Responses upstream, with the gateway's ids and numbers.

mod emit;
mod folded;
mod items;
mod place;
mod terminal;

use crate::model::error::ErrorCode;
use crate::model::event::{Ending, EventKind, Failure, Outcome};
use crate::model::folded_json::FoldedJson;
use crate::model::id::GenerationId;
use crate::model::json::{self, Members};
use crate::upstream::{AnswerOrigin, Attachment};

use self::terminal::with_error;
use super::chunk::UpstreamFault;
use super::opened_items::OpenedItems;
use super::{BodyEnd, Progress, RecordWriter, Translated, failed};

/// The upstream's terminal response object, with the gateway's ids.
enum TerminalObject {
    Plain(String),
    /// With references in place of its texts.
    Folded(FoldedJson),
}

/// The state of one Responses stream.
pub struct ResponsesTranslator {
    id: String,
    /// The random part of the generation's id.
    suffix: String,
    previous: String,
    started: bool,
    opened: OpenedItems,
    fault: Option<Failure>,
    /// `response.failed` came without a reason.
    failing: bool,
    last: Option<TerminalObject>,
    /// Who answers.
    origin: Option<AnswerOrigin>,
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
            suffix: id.suffix().to_owned(),
            previous,
            started: false,
            opened: OpenedItems::default(),
            fault: None,
            failing: false,
            last: None,
            origin: None,
        }
    }

    /// Keeps who answers with what only the same account takes back.
    pub(crate) fn of(mut self, origin: Option<AnswerOrigin>) -> Self {
        self.origin = origin;
        self
    }

    /// Returns true once the upstream has sent anything.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }

    /// Translates one payload. `name` is the SSE event's name, which counts where the payload has no
    /// `type` member.
    pub fn payload(
        &mut self,
        name: Option<&[u8]>,
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
        if data.eq_ignore_ascii_case(b"[DONE]") {
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
        if let Some(translated) = self.folded(text, &members, records) {
            return translated;
        }
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        let name = name.filter(|name| name.starts_with("response.") || *name == "error");
        if let Some(name) = name.filter(|_| members.get("type").is_none()) {
            let typed = members.write_with(&[("type", &json::quoted(name))]);
            return match serde_json::from_str(&typed) {
                Ok(members) => self.event(&members, typed.as_bytes(), records),
                Err(_) => over(truncated()),
            };
        }
        self.event(&members, data, records)
    }

    /// Returns the usage as raw JSON, if the terminal object has come and has one.
    pub(crate) fn usage_json(&self) -> Option<String> {
        let object = match self.last.as_ref()? {
            TerminalObject::Plain(object) => object.as_str(),
            TerminalObject::Folded(object) => object.as_str(),
        };
        let members: Members<'_> = serde_json::from_str(object).ok()?;
        let usage = members.get("usage")?.get();
        (usage != "null").then(|| usage.to_owned())
    }

    /// Returns the ending of a body without a terminal event.
    #[must_use]
    pub fn body_ended(&self, end: BodyEnd) -> Ending {
        match (&self.fault, end) {
            (Some(failure), _) => Ending::Failed(failure.clone()),
            (None, _) if self.failing => unexplained(),
            (None, BodyEnd::Broken) => failed(
                ErrorCode::UpstreamTruncated,
                "The connection to the upstream broke in the middle of the answer.",
            ),
            (None, _) => truncated(),
        }
    }

    /// Forgets the upstream's terminal object.
    pub(super) fn forget_terminal(&mut self) {
        self.last = None;
    }

    /// Writes the terminal event.
    pub fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        let mut fold = |object| records.relayed_items().fold(object);
        let relayed = self.last.take().and_then(|object| match (object, &ending) {
            (TerminalObject::Plain(object), Ending::Failed(failure)) => {
                Some(fold(with_error(object, failure)))
            }
            // The generation was cancelled before the reason of a failure arrived.
            _ if self.failing => None,
            (TerminalObject::Plain(object), _) => Some(fold(object)),
            (TerminalObject::Folded(object), _) => Some(object),
        });
        let usage = relayed.as_ref().and_then(|object| {
            serde_json::from_str::<Members<'_>>(object.as_str())
                .ok()?
                .get("usage")
                .map(|raw| raw.get().to_owned())
        });
        if matches!(ending, Ending::Completed | Ending::Incomplete { .. }) {
            records.leave_closing_numbers();
        }
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
        let is_error = name == "error" || (name.is_empty() && members.get("error").is_some());
        let is_object = name.is_empty()
            && members.get("status").is_some()
            && (members.text("object").as_deref() == Some("response")
                || members.get("output").is_some());
        if self.failing && !is_error {
            return over(unexplained());
        }
        match &*name {
            "response.created" | "response.queued" | "response.in_progress" => {
                if !self.started {
                    self.started = true;
                    let attachment = self.attachment(members);
                    self.relay_first(self.response(members), attachment, records);
                }
                return self.translated(false);
            }
            "response.completed"
            | "response.incomplete"
            | "response.failed"
            | "response.cancelled"
            | "response.done" => {
                self.start(records);
                let response = self.response(members);
                // The status says more than the event where the two disagree.
                let status = members.object("response").and_then(|r| r.text("status"));
                let name = match (&*name, status.as_deref()) {
                    (
                        "response.completed" | "response.done",
                        Some(status @ ("failed" | "incomplete" | "cancelled")),
                    ) => format!("response.{status}"),
                    ("response.done", _) => "response.completed".to_owned(),
                    _ => name.into_owned(),
                };
                return self.terminal(&name, response, records);
            }
            // The complete response object instead of a stream.
            "" if is_object => {
                self.start(records);
                let status = members.text("status").unwrap_or_default();
                let name = match &*status {
                    "completed" | "incomplete" | "failed" | "cancelled" => status,
                    _ => return over(truncated()),
                };
                let response = self.own_ids(members);
                return self.terminal(&format!("response.{name}"), Some(response), records);
            }
            // An error without a type: a server that failed before its stream, under HTTP 200.
            _ if is_error => {
                let fault = match members.get("error") {
                    Some(error) => UpstreamFault::read(error),
                    None => UpstreamFault {
                        code: members.text("code").map(Into::into),
                        message: members.text("message").map(Into::into),
                    },
                };
                self.upstream_over();
                let failure = self.fault.get_or_insert(fault.into()).clone();
                self.started = true;
                records.record(Some(data));
                if self.failing {
                    return over(Ending::Failed(failure));
                }
                return self.translated(false);
            }
            _ => {}
        }
        self.start(records);
        if !name.starts_with("response.") {
            // An unknown event such as `keepalive`, on which the SDKs raise: it becomes an
            // extension event.
            records.record(Some(data));
            return self.translated(false);
        }
        if !self.item_event(&name, members, records) {
            records.record(Some(data));
        }
        self.translated(name.ends_with(".delta") || name == "response.output_item.done")
    }

    /// Appends `response.in_progress` if the upstream did not begin with a response object.
    fn start(&mut self, records: &mut RecordWriter) {
        if !self.started {
            self.started = true;
            records.event(EventKind::InProgress);
            records.record(None);
        }
    }

    /// Notes the upstream's id of the response. Returns what other processes find it by.
    fn attachment(&self, members: &Members<'_>) -> Option<Attachment> {
        let id = members.object("response")?;
        self.origin.as_ref()?.begun(&id.text("id")?)
    }

    /// Notes that the upstream does not go on.
    fn upstream_over(&self) {
        if let Some(origin) = &self.origin {
            origin.over();
        }
    }

    /// Returns the event's response object with the gateway's ids.
    fn response(&self, members: &Members<'_>) -> Option<String> {
        Some(self.own_ids(&members.object("response")?))
    }

    fn own_ids(&self, response: &Members<'_>) -> String {
        response.write_with(&[("id", &self.id), ("previous_response_id", &self.previous)])
    }

    fn translated(&self, tokens: bool) -> Translated {
        Translated {
            progress: self.progress(),
            tokens,
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

fn unexplained() -> Ending {
    failed(
        ErrorCode::UpstreamError,
        "The upstream reported that the response failed.",
    )
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
