//! Response items as chat messages.
//!
//! In Responses a function call is an item. In chat it belongs to an assistant message, and the
//! tool outputs must directly follow that message. So assistant items are gathered in a pending
//! message until an item of another kind comes.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::REMEDY;
use super::content::{Part, parts, push_parts};
use super::history::HistoryIds;
use crate::model::error::ApiError;
use crate::model::json::{
    Kind, Members, Node, ObjectWriter, invalid, push_array, quote, unsupported,
};
use crate::request::item::type_of;

/// The assistant message that assistant items are gathered in.
#[derive(Default)]
struct Assistant<'a> {
    parts: Vec<Part<'a>>,
    calls: Vec<String>,
    /// Unknown members, which go up unchanged. Every name once.
    others: Vec<(String, &'a str)>,
    named: HashSet<String>,
}

/// Writes the messages of one request.
pub(super) struct Conversation<'a> {
    out: String,
    pending: Option<Assistant<'a>>,
    ids: HistoryIds<'a>,
}

// === impl Conversation ===

impl<'a> Conversation<'a> {
    /// Writes the messages as a JSON array: the instructions, the history, the input.
    pub(super) fn messages(
        instructions: Option<&'a RawValue>,
        history: &'a [&'a RawValue],
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
                "at least one item with content for the model",
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

    fn message_item(&mut self, item: &Members<'a>) -> Result<(), ApiError> {
        let role = item.require("role")?;
        let name = role.text()?;
        if !matches!(name.as_ref(), "user" | "assistant" | "system" | "developer") {
            return Err(role.invalid(
                "'user', 'assistant', 'system' or 'developer'",
                &format!("'{}'", quote(&name)),
            ));
        }
        let assistant = name == "assistant";
        let parts = parts(&item.require("content")?, assistant)?;
        foreign(item, &["tool_calls", "tool_call_id"])?;
        let others = item
            .others(&["type", "id", "role", "content", "status", "phase"])
            .map(|(name, raw)| (name.to_owned(), raw.get()));
        if assistant {
            // A message after calls is merged into theirs: a chat server accepts nothing between
            // the calls and their outputs.
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

    fn call(&mut self, item: &Members<'a>) -> Result<(), ApiError> {
        foreign(item, &["function"])?;
        let call_id = item.require("call_id")?.of_kind(Kind::String)?;
        let name = item.require("name")?.of_kind(Kind::String)?;
        let arguments = match item.require("arguments")?.of_kind(Kind::String)? {
            // A call without arguments. Servers parse the text, and an empty one is not JSON.
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

    fn call_output(&mut self, item: &Members<'a>) -> Result<(), ApiError> {
        self.flush();
        let call_id = item.require("call_id")?.of_kind(Kind::String)?;
        let parts = parts(&item.require("output")?, false)?;
        let mut others = vec![("tool_call_id".to_owned(), call_id)];
        foreign(item, &["tool_call_id", "role", "content"])?;
        others.extend(
            item.others(&["type", "id", "call_id", "output", "status"])
                .map(|(name, raw)| (name.to_owned(), raw.get())),
        );
        self.message("\"tool\"", &parts, &others);
        Ok(())
    }

    /// Writes the pending assistant message, if there is one.
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

/// Refuses members of chat messages that would contradict the translated item.
fn foreign(item: &Members<'_>, names: &[&str]) -> Result<(), ApiError> {
    match names.iter().find_map(|name| item.node(name)) {
        Some(node) => {
            Err(node.unsupported("It belongs to chat messages; an item of this type has members of its own for it. Leave it out."))
        }
        None => Ok(()),
    }
}
