//! A responses request for an upstream that speaks Responses.

use serde_json::value::RawValue;

use super::ResponsesRequest;
use super::validation::GATEWAY_MEMBERS;
use crate::model::error::ApiError;
use crate::model::id::GenerationId;
use crate::model::include::Include;
use crate::model::json::{ObjectWriter, quoted, raw_value};
use crate::request::item;

impl ResponsesRequest {
    /// What the client asks to be shown.
    #[must_use]
    pub fn include(&self) -> Include {
        Include::of(self.included().iter().map(String::as_str))
    }

    /// The values of `include`.
    #[must_use]
    pub fn included(&self) -> Vec<String> {
        let include = self.raw.get("include");
        include
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }

    /// Whether an answer is asked for. `generate: false` makes a response without output.
    #[must_use]
    pub fn generate(&self) -> bool {
        self.raw.get_bool("generate").unwrap_or(true)
    }

    /// Returns the items of the input as they were received; none for a text.
    pub(crate) fn raw_input(&self) -> Vec<&RawValue> {
        let input = self.raw.get("input");
        let input = input.filter(|raw| raw.get().starts_with('['));
        input
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }

    /// Returns an input that is a text as an item, where it follows a history.
    pub(crate) fn text_as_item(&self, history: &[&RawValue]) -> Option<Box<RawValue>> {
        let input = self.raw.get("input")?;
        let text = input.get().starts_with('"') && !history.is_empty();
        text.then(|| {
            raw_value(format!(
                r#"{{"type":"message","role":"user","content":{}}}"#,
                input.get()
            ))
        })
    }

    /// The same request with this input, an array of items.
    ///
    /// # Errors
    /// As [`ResponsesRequest::parse`].
    pub(crate) fn with_input(&self, items: &[&RawValue]) -> Result<Self, ApiError> {
        let items: Vec<&str> = items.iter().map(|item| item.get()).collect();
        let mut raw = self.raw.clone();
        raw.insert_raw("input", raw_value(format!("[{}]", items.join(","))));
        Self::from_object(raw)
    }

    /// Returns the input as kept items, with ids that hold the response's where the client gave none.
    #[must_use]
    pub fn input_items(&self, response: &GenerationId) -> Vec<Box<RawValue>> {
        let ids: Vec<String> = (0..)
            .zip(&self.item_ids)
            .map(|(at, id): (u32, _)| match id {
                Ok(id) => id.clone(),
                Err(prefix) => format!("{prefix}{}i{at:04}", response.suffix()),
            })
            .collect();
        self.input()
            .map(|input| item::listed(&input, &ids))
            .unwrap_or_default()
    }

    /// Returns the body of a request to the upstream that asks for no response: as it was received,
    /// without what only the gateway or a response has, and with this input, if any.
    pub(crate) fn relayed_as_it_is(&self, model: &str, input: Option<&str>) -> Vec<u8> {
        let left_out = ["background", "previous_response_id", "store", "stream"];
        let model = quoted(model);
        let mut out = String::new();
        let mut body = ObjectWriter::begin(&mut out);
        body.raw("model", &model);
        for (name, raw) in self.raw.iter() {
            let value = match name {
                "model" => continue,
                _ if GATEWAY_MEMBERS.contains(&name) || left_out.contains(&name) => continue,
                "input" => input.unwrap_or(raw.get()),
                _ => raw.get(),
            };
            body.raw(name, value);
        }
        body.end();
        out.into_bytes()
    }

    /// Returns the body for an upstream that speaks Responses: as it was received, without the
    /// gateway's own members, `background` and `previous_response_id`; with `stream: true` and
    /// `store: false`, and with these values, if any, as `input` and `include`.
    pub(crate) fn relayed(
        &self,
        model: &str,
        input: Option<&str>,
        include: Option<&str>,
    ) -> Vec<u8> {
        let model = quoted(model);
        let mut replaced = vec![
            ("model", Some(model.as_str())),
            ("stream", Some("true")),
            ("store", Some("false")),
            ("input", input),
            ("include", include),
        ];
        replaced.retain(|(_, value)| value.is_some());
        let left_out = ["background", "previous_response_id"];
        let capacity = self.memory_size() + input.map_or(0, str::len) + 256;
        let mut out = String::with_capacity(capacity);
        let mut body = ObjectWriter::begin(&mut out);
        for (name, raw) in self.raw.iter() {
            if GATEWAY_MEMBERS.contains(&name) || left_out.contains(&name) {
                continue;
            }
            let value = match replaced.iter().position(|(known, _)| *known == name) {
                Some(at) => replaced.swap_remove(at).1.unwrap_or_default(),
                None => raw.get(),
            };
            body.raw(name, value);
        }
        replaced.sort_unstable();
        for (name, value) in replaced {
            body.raw(name, value.unwrap_or_default());
        }
        body.end();
        out.into_bytes()
    }
}
