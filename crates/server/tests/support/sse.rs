//! A line-by-line parser of server-sent events, after the WHATWG specification.

use serde_json::Value;

/// One event that was dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) data: String,
}

/// Returns the whole events of a stream. Text after the last blank line is not an event yet.
pub(crate) fn parse(text: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let (mut id, mut name, mut data) = (None, None, Vec::new());
    for line in text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        if line.is_empty() {
            if !data.is_empty() {
                events.push(Event {
                    id: id.take(),
                    name: name.take(),
                    data: data.join("\n"),
                });
            }
            (id, name) = (None, None);
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = Some(value.to_owned()),
            "event" => name = Some(value.to_owned()),
            "data" => data.push(value.to_owned()),
            "" | "retry" => {}
            other => panic!("a field {other:?} in {text}"),
        }
    }
    events
}

impl Event {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {}", self.data))
    }

    /// Returns the `type` of an event in the responses dialect, or an empty string.
    pub(crate) fn kind(&self) -> String {
        serde_json::from_str::<Value>(&self.data)
            .ok()
            .and_then(|json| json["type"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// Returns the number in the event's id.
    pub(crate) fn number(&self) -> u64 {
        self.id
            .as_deref()
            .and_then(|id| id.split_once('.'))
            .map(|(_, number)| number.parse().unwrap())
            .expect("an event without an id")
    }
}

/// Concatenates the `output_text` deltas of events in the responses dialect.
pub(crate) fn output_text<'a>(events: impl IntoIterator<Item = &'a Value>) -> String {
    events
        .into_iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .filter_map(|event| event["delta"].as_str())
        .collect()
}
