//! Response items as chat messages.
//!
//! The two dialects cut a conversation differently: in Responses a function call is an item of its
//! own, in chat it belongs to an assistant message, and the tools' answers must directly follow
//! that message. So assistant items gather in a pending message until an item of another kind
//! comes.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::item::type_of;
use super::json::{ObjectWriter, push_array, push_string};
use super::node::{Kind, Node, Object, invalid, quote, unsupported};
use crate::model::error::ApiError;

/// What every refusal advises.
pub(super) const REMEDY: &str = "Leave it out, or use an upstream that speaks the Responses API.";

/// A piece of a message's content, translated. All strings are JSON.
enum Part<'a> {
    /// A text and nothing else: what may stand as a plain string.
    Text(&'a str),
    /// A whole content part.
    Whole(String),
}

#[derive(Default)]
struct Assistant<'a> {
    parts: Vec<Part<'a>>,
    calls: Vec<String>,
    /// Members that are not ours to judge, every name once.
    others: Vec<(String, &'a str)>,
    named: HashSet<String>,
}

/// The messages of one request, written as they come.
pub(super) struct Conversation<'a> {
    out: String,
    pending: Option<Assistant<'a>>,
    ids: HistoryIds<'a>,
}

/// The ids of the history's items, read when first asked for.
pub(super) struct HistoryIds<'a> {
    history: &'a [Box<RawValue>],
    ids: Option<HashSet<String>>,
}

// === impl HistoryIds ===

impl<'a> HistoryIds<'a> {
    pub(super) fn new(history: &'a [Box<RawValue>]) -> Self {
        Self { history, ids: None }
    }

    /// Whether `item` is a reference to an item of the history.
    pub(super) fn resolves(&mut self, item: &Node<'_>) -> bool {
        let Ok(object) = item.object() else {
            return false;
        };
        type_of(&object).is_ok_and(|kind| kind == "item_reference")
            && object
                .get("id")
                .and_then(|id| id.text().ok())
                .is_some_and(|id| self.contains(&id))
    }

    fn contains(&mut self, id: &str) -> bool {
        let history = self.history;
        let ids = self.ids.get_or_insert_with(|| {
            let id_of = |item: &RawValue| {
                Some(
                    Node::new(item, "")
                        .object()
                        .ok()?
                        .get("id")?
                        .text()
                        .ok()?
                        .into_owned(),
                )
            };
            history.iter().filter_map(|item| id_of(item)).collect()
        });
        ids.contains(id)
    }
}

// === impl Conversation ===

impl<'a> Conversation<'a> {
    /// Writes the messages as a JSON array: the instructions, the history, the input.
    pub(super) fn messages(
        instructions: Option<&'a RawValue>,
        history: &'a [Box<RawValue>],
        input: &Node<'a>,
    ) -> Result<String, ApiError> {
        let mut this = Self {
            out: String::from("["),
            pending: None,
            ids: HistoryIds::new(history),
        };
        if let Some(text) = instructions {
            this.message("\"system\"", &[Part::Text(text.get())], &[]);
        }
        for (i, item) in history.iter().enumerate() {
            let node = Node::new(item, format!("previous_response_id.items[{i}]"));
            this.item(&node)
                .map_err(|error| error.param("previous_response_id"))?;
        }
        if input.kind() == Kind::String {
            this.flush();
            this.message("\"user\"", &[Part::Text(input.raw.get())], &[]);
        } else {
            for item in input.array()? {
                this.item(&item)?;
            }
            this.flush();
        }
        if this.out.len() == 1 {
            return Err(invalid(
                "input",
                "at least one item that says something to the model",
                "none",
            ));
        }
        this.out.push(']');
        Ok(this.out)
    }

    fn item(&mut self, node: &Node<'a>) -> Result<(), ApiError> {
        let item = node.object()?;
        match type_of(&item)?.as_ref() {
            "message" => self.message_item(&item),
            "function_call" => self.call(&item),
            "function_call_output" => self.call_output(&item),
            "reasoning" => Ok(()),
            "item_reference" => {
                let id = item.require("id")?;
                let text = id.text()?;
                if self.ids.contains(&text) {
                    return Ok(());
                }
                Err(id.invalid(
                    "the id of an item of the conversation that 'previous_response_id' names",
                    &format!("'{}'", quote(&text)),
                ))
            }
            other => {
                let known = "'message', 'function_call', 'function_call_output', 'reasoning' and 'item_reference'";
                let why = format!(
                    "A chat-completions upstream takes items of type {known}, not '{}'. {REMEDY}",
                    quote(other)
                );
                Err(unsupported(&item.path_of("type"), &why))
            }
        }
    }

    fn message_item(&mut self, item: &Object<'a>) -> Result<(), ApiError> {
        let role = item.require("role")?;
        let name = role.text()?;
        if !matches!(name.as_ref(), "user" | "assistant" | "system" | "developer") {
            return Err(role.invalid(
                "'user', 'assistant', 'system' or 'developer'",
                &format!("'{}'", quote(&name)),
            ));
        }
        let assistant = name == "assistant";
        let parts = content(&item.require("content")?, assistant)?;
        foreign(item, &["tool_calls", "tool_call_id"])?;
        let others = item
            .others(&["type", "id", "role", "content", "status", "phase"])
            .map(|(name, raw)| (name.to_owned(), raw.get()));
        if assistant {
            // A message that follows calls belongs to them: between the calls and their outputs a
            // chat server takes nothing.
            if self
                .pending
                .as_ref()
                .is_none_or(|pending| pending.calls.is_empty())
            {
                self.flush();
            }
            let pending = self.pending.get_or_insert_default();
            pending.parts.extend(parts);
            for (name, raw) in others {
                if pending.named.insert(name.clone()) {
                    pending.others.push((name, raw));
                }
            }
        } else {
            self.flush();
            self.message(role.raw.get(), &parts, &others.collect::<Vec<_>>());
        }
        Ok(())
    }

    fn call(&mut self, item: &Object<'a>) -> Result<(), ApiError> {
        foreign(item, &["function"])?;
        let call_id = item.require("call_id")?.of_kind(Kind::String)?;
        let name = item.require("name")?.of_kind(Kind::String)?;
        let arguments = match item.require("arguments")?.of_kind(Kind::String)? {
            // A call without arguments; servers parse the text, and nothing is not JSON.
            "\"\"" => "\"{}\"",
            arguments => arguments,
        };
        let mut out = String::new();
        let mut call = ObjectWriter::begin(&mut out);
        call.raw("id", call_id);
        call.raw("type", "\"function\"");
        let mut function = ObjectWriter::begin(call.name("function"));
        function.raw("name", name);
        function.raw("arguments", arguments);
        function.end();
        for (name, raw) in item.others(&["type", "id", "call_id", "name", "arguments", "status"]) {
            call.raw(name, raw.get());
        }
        call.end();
        self.pending.get_or_insert_default().calls.push(out);
        Ok(())
    }

    fn call_output(&mut self, item: &Object<'a>) -> Result<(), ApiError> {
        self.flush();
        let call_id = item.require("call_id")?.of_kind(Kind::String)?;
        let parts = content(&item.require("output")?, false)?;
        let mut others = vec![("tool_call_id".to_owned(), call_id)];
        foreign(item, &["tool_call_id", "role", "content"])?;
        others.extend(
            item.others(&["type", "id", "call_id", "output", "status"])
                .map(|(name, raw)| (name.to_owned(), raw.get())),
        );
        self.message("\"tool\"", &parts, &others);
        Ok(())
    }

    /// Writes the assistant message that is pending, if there is one.
    fn flush(&mut self) {
        let Some(Assistant {
            parts,
            calls,
            others,
            ..
        }) = self.pending.take()
        else {
            return;
        };
        let mut array = String::new();
        if !calls.is_empty() {
            push_array(&mut array, &calls, |out, call| out.push_str(call));
        }
        self.begin();
        let mut message = ObjectWriter::begin(&mut self.out);
        message.raw("role", "\"assistant\"");
        if parts.is_empty() && !calls.is_empty() {
            message.raw("content", "null");
        } else {
            push_parts(message.name("content"), &parts);
        }
        if !calls.is_empty() {
            message.raw("tool_calls", &array);
        }
        for (name, raw) in &others {
            message.raw(name, raw);
        }
        message.end();
    }

    fn message(&mut self, role: &str, parts: &[Part<'_>], others: &[(String, &str)]) {
        self.begin();
        let mut message = ObjectWriter::begin(&mut self.out);
        message.raw("role", role);
        push_parts(message.name("content"), parts);
        for (name, raw) in others {
            message.raw(name, raw);
        }
        message.end();
    }

    fn begin(&mut self) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
    }
}

/// Refuses members that are chat's own and would contradict what is made of the item.
fn foreign(item: &Object<'_>, names: &[&str]) -> Result<(), ApiError> {
    match names.iter().find_map(|name| item.get(name)) {
        Some(node) => {
            Err(node.unsupported("It belongs to chat messages; an item of this type says the same in members of its own. Leave it out."))
        }
        None => Ok(()),
    }
}

// === content ===

/// One text is written as a plain string, which every server takes; anything else as an array of
/// parts.
fn push_parts(out: &mut String, parts: &[Part<'_>]) {
    match parts {
        [] => push_string(out, ""),
        [Part::Text(text)] => out.push_str(text),
        _ => push_array(out, parts, |out, part| match part {
            Part::Text(text) => {
                let mut object = ObjectWriter::begin(out);
                object.raw("type", "\"text\"");
                object.raw("text", text);
                object.end();
            }
            Part::Whole(part) => out.push_str(part),
        }),
    }
}

/// The content of a message or the output of a tool: a string or an array of parts.
fn content<'a>(node: &Node<'a>, assistant: bool) -> Result<Vec<Part<'a>>, ApiError> {
    match node.kind() {
        Kind::String => Ok(vec![Part::Text(node.raw.get())]),
        Kind::Array => node
            .array()?
            .iter()
            .map(|part| translate(part, assistant))
            .collect(),
        _ => Err(node.wrong_type("a string or an array of parts")),
    }
}

/// A part of Responses as a part of chat. Members that neither dialect knows go along.
fn translate<'a>(node: &Node<'a>, assistant: bool) -> Result<Part<'a>, ApiError> {
    let object = node.object()?;
    let kind = object.require("type")?;
    let mut out = String::new();
    let mut part = ObjectWriter::begin(&mut out);
    let known: &[&str] = match kind.text()?.as_ref() {
        "input_text" | "output_text" | "text" => {
            let known = &["type", "text", "annotations", "logprobs"];
            let text = object.require("text")?.of_kind(Kind::String)?;
            if object.others(known).next().is_none() {
                return Ok(Part::Text(text));
            }
            part.raw("type", "\"text\"");
            part.raw("text", text);
            known
        }
        "refusal" if assistant => {
            part.raw("type", "\"refusal\"");
            part.raw("refusal", object.require("refusal")?.of_kind(Kind::String)?);
            &["type", "refusal"]
        }
        "input_image" => {
            refuse(
                &object,
                &["file_id"],
                "Give the image itself as a data URL, or its address, in 'image_url'.",
            )?;
            part.raw("type", "\"image_url\"");
            let mut image = ObjectWriter::begin(part.name("image_url"));
            image.raw("url", object.require("image_url")?.of_kind(Kind::String)?);
            if let Some(detail) = object.get("detail") {
                image.raw("detail", detail.of_kind(Kind::String)?);
            }
            image.end();
            &["type", "image_url", "detail", "file_id"]
        }
        "input_file" => {
            refuse(
                &object,
                &["file_id", "file_url"],
                "Give the file itself in 'file_data', with a 'filename'.",
            )?;
            part.raw("type", "\"file\"");
            let data = object.require("file_data")?.of_kind(Kind::String)?;
            let mut file = ObjectWriter::begin(part.name("file"));
            if let Some(name) = object.get("filename") {
                file.raw("filename", name.of_kind(Kind::String)?);
            }
            file.raw("file_data", data);
            file.end();
            &["type", "file_data", "filename", "file_id", "file_url"]
        }
        "input_audio" => {
            part.raw("type", "\"input_audio\"");
            part.raw(
                "input_audio",
                object.require("input_audio")?.of_kind(Kind::Object)?,
            );
            &["type", "input_audio"]
        }
        "refusal" => {
            return Err(kind.invalid(
                "a part that this role may hold",
                "'refusal', which only an assistant says",
            ));
        }
        other => {
            let known = "'input_text', 'output_text', 'refusal', 'input_image', 'input_file' and 'input_audio'";
            return Err(kind.unsupported(&format!(
                "A chat-completions upstream takes parts of type {known}, not '{}'. {REMEDY}",
                quote(other)
            )));
        }
    };
    for (name, raw) in object.others(known) {
        // Such as `text` of a file: it would change the part into another.
        if matches!(name, "file" | "text") {
            return Err(unsupported(
                &object.path_of(name),
                "A part of this type has no such member. Leave it out.",
            ));
        }
        part.raw(name, raw.get());
    }
    part.end();
    Ok(Part::Whole(out))
}

fn refuse(object: &Object<'_>, names: &[&str], why: &str) -> Result<(), ApiError> {
    match names.iter().find_map(|name| object.get(name)) {
        Some(node) => Err(node.unsupported(&format!(
            "A chat-completions upstream cannot fetch it. {why}"
        ))),
        None => Ok(()),
    }
}
