//! A client's view of a stream, and the rules that every stream must keep.

use serde_json::Value;

use super::plan::Plan;

/// How a generation ended for one of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    /// Failed with this code.
    Failed(String),
    Cancelled,
}

/// One client's view of one generation, over any number of connections.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The complete answer.
    wanted: String,
    sound: bool,
    pub(crate) id: Option<String>,
    pub(crate) text: String,
    /// The number of the last event.
    pub(crate) last: Option<u64>,
    /// Number of events so far, in any dialect.
    pub(crate) events: u64,
    pub(crate) ended: Option<Ended>,
    /// Whether every number is visible, so that a missing one is a lost event.
    dense: bool,
}

// === impl Reading ===

impl Reading {
    pub(crate) fn new(plan: &Plan, dense: bool) -> Self {
        Self {
            wanted: plan.text(),
            sound: plan.is_sound(),
            id: None,
            text: String::new(),
            last: None,
            events: 0,
            ended: None,
            dense,
        }
    }

    /// Continues on another connection, on which every number is visible or not.
    pub(crate) fn goes_on(&mut self, dense: bool) {
        self.dense = dense;
    }

    /// Applies an event of the responses dialect.
    pub(crate) fn event(&mut self, event: &Value) {
        assert_eq!(self.ended, None, "an event after the end: {event}");
        let number = event["sequence_number"]
            .as_u64()
            .unwrap_or_else(|| panic!("no number in {event}"));
        let least = self.last.map_or(0, |last| last + 1);
        let is_end = matches!(
            event["type"].as_str(),
            Some("response.completed" | "response.incomplete")
        );
        assert!(
            if self.dense {
                // Over a Responses upstream the terminal event leaves out two numbers.
                number == least || (is_end && number == least + 2)
            } else {
                number >= least
            },
            "number {number} where {least} was expected: {event}"
        );
        self.last = Some(number);
        self.events += 1;
        match event["type"].as_str().unwrap() {
            "response.created" => self.know(event["response"]["id"].as_str().unwrap()),
            "response.output_text.delta" => self.text.push_str(event["delta"].as_str().unwrap()),
            "tokenwire:reset" => panic!("a reset although the log is kept: {event}"),
            "response.completed" | "response.incomplete" | "response.failed" => {
                self.end(Self::end_of(&event["response"]))
            }
            _ => {}
        }
    }

    /// Applies a payload of the chat dialect, with its number where there is one.
    pub(crate) fn chunk(&mut self, number: Option<u64>, payload: &str) {
        assert_eq!(self.ended, None, "a payload after the end: {payload}");
        self.events += 1;
        if let Some(number) = number {
            assert!(
                self.last.is_none_or(|last| number > last),
                "{number} after {:?}: {payload}",
                self.last
            );
            self.last = Some(number);
        }
        if payload == "[DONE]" {
            return self.end(Ended::Completed);
        }
        let chunk: Value = serde_json::from_str(payload).unwrap();
        if chunk["error"].is_object() {
            return self.end(failure(&chunk["error"]));
        }
        self.text.push_str(
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
    }

    pub(crate) fn know(&mut self, id: &str) {
        assert!(
            self.id.as_deref().is_none_or(|known| known == id),
            "another generation: {id} instead of {:?}",
            self.id
        );
        self.id = Some(id.to_owned());
    }

    /// Records the end and checks the text so far.
    pub(crate) fn end(&mut self, ended: Ended) {
        assert_eq!(self.ended, None, "a second end");
        self.check();
        match &ended {
            Ended::Completed => assert_eq!(self.text, self.wanted, "a token is lost"),
            Ended::Failed(code) => assert!(
                !self.sound || code == "upstream_busy",
                "{code} although the request has no fault"
            ),
            Ended::Cancelled => {}
        }
        self.ended = Some(ended);
    }

    /// Checks that no token was lost, repeated or torn.
    pub(crate) fn check(&self) {
        let rest = self.wanted.strip_prefix(&self.text);
        assert!(
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')),
            "{:?} is not a prefix of {:?}",
            self.text,
            self.wanted
        );
    }

    /// Returns the end that a response object reports.
    pub(crate) fn end_of(object: &Value) -> Ended {
        match object["status"].as_str() {
            Some("completed") => Ended::Completed,
            Some("cancelled") => Ended::Cancelled,
            Some("failed") => failure(&object["error"]),
            _ => panic!("no end: {object}"),
        }
    }

    /// Checks that the object contains what was read.
    pub(crate) fn check_object(&self, object: &Value) {
        assert_eq!(Some(Self::end_of(object)), self.ended, "{object}");
        assert_eq!(text_of(object), self.text, "{object}");
    }
}

/// Returns the text of a response object.
pub(crate) fn text_of(object: &Value) -> String {
    let parts = object["output"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|item| item["type"] == "message");
    parts
        .filter_map(|item| item["content"][0]["text"].as_str())
        .collect()
}

/// Returns an error's code, or its type where the upstream's own error has no code.
pub(crate) fn failure(error: &Value) -> Ended {
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty()),
        "no message in {error}"
    );
    match error["code"].as_str().or(error["type"].as_str()) {
        Some("cancelled") => Ended::Cancelled,
        Some(code) => Ended::Failed(code.to_owned()),
        None => panic!("no code in {error}"),
    }
}
