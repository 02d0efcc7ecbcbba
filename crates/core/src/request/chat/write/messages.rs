//! Items as chat messages.
//!
//! An item of its own for each call becomes an assistant message with all calls of an answer, and
//! the outputs directly follow the message that called. So assistant items are gathered in a
//! pending message until an item of another kind comes.
//!
//! What is written for an item depends on the items before it only, and on the outputs of its calls.
//! So the bytes for a prefix of a conversation are the same in every turn, and the server's cache of
//! prefixes holds.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use super::content::push_parts;
use super::tools::{arguments_of, sent_name};
use super::{REMEDY, extras};
use crate::model::error::ApiError;
use crate::model::json::{ObjectWriter, invalid, push_array, quote};
use crate::request::canonical::{
    Call, CanonicalRequest, Extra, Item, Message, Output, Part, PartKind, Reasoning, Role,
    ToolKind, Value,
};
use crate::request::chat::settings::{ChatSettings, CustomTools, DeveloperRole, ReasoningBack};

/// Members of an assistant message that hold reasoning. Others are never made of what was kept.
const REASONING: &[&str] = &[
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "thinking_blocks",
    "thought",
];

/// Members of a message that are written here.
const RESERVED: &[&str] = &["role", "content", "name", "tool_calls", "tool_call_id"];

/// The assistant message that assistant items are gathered in.
#[derive(Default)]
struct Assistant<'r, 'a> {
    reasoning: Vec<&'r Reasoning<'a>>,
    parts: Vec<Part<'a>>,
    name: Option<&'r Value<'a>>,
    calls: Vec<(usize, &'r Call<'a>)>,
    /// Members that are not modelled. Every name once.
    extra: Vec<&'r Extra<'a>>,
    named: HashSet<&'r str>,
}

/// Writes the messages of one request.
struct Conversation<'r, 'a> {
    settings: &'r ChatSettings,
    out: String,
    pending: Option<Assistant<'r, 'a>>,
    /// Reasoning that belongs to the next message or call.
    reasoning: Vec<&'r Reasoning<'a>>,
    /// Whether the turn, since the last message of the user, has called tools.
    calls_in_turn: bool,
    outputs: Outputs<'r, 'a>,
}

/// The outputs that are not written yet, by the id of their call.
struct Outputs<'r, 'a> {
    by_call: HashMap<&'r str, VecDeque<(usize, &'r Output<'a>)>>,
    written: HashSet<usize>,
}

/// Writes the messages as a JSON array.
pub(super) fn write(
    request: &CanonicalRequest<'_>,
    settings: &ChatSettings,
) -> Result<String, ApiError> {
    let mut out = String::with_capacity(typical_size(&request.items));
    out.push('[');
    let mut this = Conversation {
        settings,
        out,
        pending: None,
        reasoning: Vec::new(),
        calls_in_turn: false,
        outputs: Outputs::of(&request.items),
    };
    let leading = this.leading(request)?;
    for (number, item) in request.items.iter().enumerate().skip(leading) {
        this.item(number, item)?;
    }
    this.end_turn()?;
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

/// Returns about the bytes that the items take as messages. A string that grows to them would be
/// copied, and could be twice as large.
fn typical_size(items: &[Item<'_>]) -> usize {
    let part = |part: &Part<'_>| part.plain_text().map_or(256, |text| text.json().len() + 32);
    let item = |item: &Item<'_>| match item {
        Item::Message(message) => message.content.iter().map(part).sum(),
        _ => 256,
    };
    items.iter().map(|each| item(each) + 64).sum()
}

// === impl Conversation ===

impl<'r, 'a> Conversation<'r, 'a> {
    /// Writes the instructions and the messages of system and developer before the conversation as
    /// one message. Returns the number of these messages.
    fn leading(&mut self, request: &'r CanonicalRequest<'a>) -> Result<usize, ApiError> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        parts.extend(request.instructions.clone().map(Part::text));
        let mut role = Role::System;
        let mut count = 0;
        for item in &request.items {
            let Item::Message(message) = item else { break };
            if !matches!(message.role, Role::System | Role::Developer)
                || message.name.is_some()
                || !message.extra.is_empty()
            {
                break;
            }
            if parts.is_empty() {
                role = message.role;
            }
            parts.extend(message.content.iter().cloned());
            count += 1;
        }
        if count == 0 && parts.is_empty() {
            return Ok(0);
        }
        let texts: Option<Vec<&str>> = parts
            .iter()
            .map(|part| part.plain_text().and_then(Value::inside))
            .collect();
        if let Some(texts) = texts {
            let text = ["\"", &texts.join("\\n\\n"), "\""].concat();
            parts = vec![Part::text(Value::owned(text, "instructions"))];
        }
        self.message(self.role(role), &parts, None, &[])?;
        Ok(count)
    }

    fn role(&self, role: Role) -> &'static str {
        match (role, self.settings.developer_role) {
            (Role::Developer, DeveloperRole::System) => Role::System.as_str(),
            _ => role.as_str(),
        }
    }

    fn item(&mut self, number: usize, item: &'r Item<'a>) -> Result<(), ApiError> {
        match item {
            Item::Message(message) if message.role == Role::Assistant => {
                self.answer(message)?;
            }
            Item::Message(message) => {
                self.end_turn()?;
                self.reasoning.clear();
                if message.role == Role::User {
                    self.calls_in_turn = false;
                }
                self.message(
                    self.role(message.role),
                    &message.content,
                    message.name.as_ref(),
                    &message.extra.iter().collect::<Vec<_>>(),
                )?;
            }
            Item::Reasoning(reasoning) => self.reasoning.push(reasoning),
            Item::Call(call) => {
                let pending = self.pending.get_or_insert_default();
                pending.reasoning.append(&mut self.reasoning);
                pending.calls.push((number, call));
            }
            Item::Output(output) => {
                self.end_turn()?;
                if !self.outputs.written.contains(&number) {
                    // Its call is not part of the conversation.
                    self.output(output)?;
                    self.images(&[output])?;
                }
            }
            Item::Unmodelled(item) if item.optional => {}
            Item::Unmodelled(item) => {
                let known = "'message', 'function_call', 'function_call_output', 'custom_tool_call', 'custom_tool_call_output', 'reasoning' and 'item_reference'";
                let found = item.kind.text().unwrap_or_default();
                return Err(item.kind.unsupported(&format!(
                    "A chat-completions upstream takes items of type {known}, not '{}'. {REMEDY}",
                    quote(&found)
                )));
            }
        }
        Ok(())
    }

    /// Gathers an assistant's message. One that comes after calls is merged into theirs: a chat
    /// server accepts nothing between the calls and their outputs.
    fn answer(&mut self, message: &'r Message<'a>) -> Result<(), ApiError> {
        if self
            .pending
            .as_ref()
            .is_none_or(|pending| pending.calls.is_empty())
        {
            self.flush()?;
        }
        let pending = self.pending.get_or_insert_default();
        pending.reasoning.append(&mut self.reasoning);
        pending.parts.extend(message.content.iter().cloned());
        pending.name = pending.name.or(message.name.as_ref());
        for extra in &message.extra {
            if pending.named.insert(&extra.name) {
                pending.extra.push(extra);
            }
        }
        Ok(())
    }

    /// Writes the pending assistant message with the reasoning that is left. Some clients send
    /// reasoning after the calls or the text that it led to.
    fn end_turn(&mut self) -> Result<(), ApiError> {
        if let Some(pending) = &mut self.pending {
            pending.reasoning.append(&mut self.reasoning);
        }
        self.flush()
    }

    /// Writes the pending assistant message, if there is one, and the outputs of its calls.
    fn flush(&mut self) -> Result<(), ApiError> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        self.calls_in_turn |= !pending.calls.is_empty();
        self.begin();
        let mut message = ObjectWriter::begin(&mut self.out);
        message.raw("role", "\"assistant\"");
        if pending.parts.is_empty() && !pending.calls.is_empty() {
            message.raw("content", "null");
        } else {
            push_parts(message.name("content"), &pending.parts)?;
        }
        if let Some(name) = pending.name {
            message.raw("name", name.json());
        }
        let fields = if self.calls_in_turn {
            fields(
                &pending.reasoning,
                self.settings.reasoning_back,
                !pending.calls.is_empty(),
            )
        } else {
            Vec::new()
        };
        for (name, json) in &fields {
            message.raw(name, json);
        }
        if !pending.calls.is_empty() {
            let calls: Vec<String> = pending
                .calls
                .iter()
                .map(|(_, call)| tool_call(call, self.settings.custom_tools))
                .collect::<Result<_, _>>()?;
            push_array(message.name("tool_calls"), &calls, |out, call| {
                out.push_str(call)
            });
        }
        for extra in pending.extra {
            if RESERVED.contains(&&*extra.name) {
                return Err(foreign(extra));
            }
            if !fields.iter().any(|(name, _)| *name == extra.name) {
                message.raw(&extra.name, extra.value.json());
            }
        }
        message.end();
        let mut outputs = Vec::new();
        for (number, call) in &pending.calls {
            if let Some(output) = self.outputs.take(*number, call) {
                self.output(output)?;
                outputs.push(output);
            }
        }
        self.images(&outputs)
    }

    /// Writes an output as a message of the role `tool`, with its texts only.
    fn output(&mut self, output: &Output<'a>) -> Result<(), ApiError> {
        let mut parts: Vec<Part<'a>> = output.content.clone();
        parts.retain(|part| !is_media(part));
        if parts.is_empty() && !output.content.is_empty() {
            let text = Value::borrowed("\"The output follows.\"", "");
            parts.push(Part::text(text));
        }
        self.begin();
        let mut message = ObjectWriter::begin(&mut self.out);
        message.raw("role", "\"tool\"");
        push_parts(message.name("content"), &parts)?;
        message.raw("tool_call_id", output.call_id.json());
        for extra in &output.extra {
            if RESERVED.contains(&&*extra.name) {
                return Err(foreign(extra));
            }
            message.raw(&extra.name, extra.value.json());
        }
        message.end();
        Ok(())
    }

    /// Writes what outputs hold beside texts as one message of the user. Chat servers take images
    /// and files there and nowhere else.
    fn images(&mut self, outputs: &[&Output<'a>]) -> Result<(), ApiError> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        for output in outputs {
            let mut media = output
                .content
                .iter()
                .filter(|part| is_media(part))
                .peekable();
            if media.peek().is_some() {
                let id = output.call_id.inside().unwrap_or_default();
                let text = ["\"Output of the tool call ", id, ":\""].concat();
                parts.push(Part::text(Value::owned(text, "")));
                parts.extend(media.cloned());
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        self.message("user", &parts, None, &[])
    }

    fn message(
        &mut self,
        role: &str,
        parts: &[Part<'_>],
        name: Option<&Value<'_>>,
        extra: &[&Extra<'_>],
    ) -> Result<(), ApiError> {
        self.begin();
        let mut message = ObjectWriter::begin(&mut self.out);
        message.string("role", role);
        push_parts(message.name("content"), parts)?;
        if let Some(name) = name {
            message.raw("name", name.json());
        }
        for extra in extra {
            if RESERVED.contains(&&*extra.name) {
                return Err(foreign(extra));
            }
            message.raw(&extra.name, extra.value.json());
        }
        message.end();
        Ok(())
    }

    fn begin(&mut self) {
        if self.out.len() > 1 {
            self.out.push(',');
        }
    }
}

// === impl Outputs ===

impl<'r, 'a> Outputs<'r, 'a> {
    fn of(items: &'r [Item<'a>]) -> Self {
        let mut by_call: HashMap<&str, VecDeque<_>> = HashMap::new();
        for (number, item) in items.iter().enumerate() {
            if let Item::Output(output) = item {
                by_call
                    .entry(output.call_id.json())
                    .or_default()
                    .push_back((number, output));
            }
        }
        Self {
            by_call,
            written: HashSet::new(),
        }
    }

    /// Returns the output of a call: the first one after it that has its id. Some servers use the
    /// same ids in every turn.
    fn take(&mut self, number: usize, call: &Call<'a>) -> Option<&'r Output<'a>> {
        let outputs = self.by_call.get_mut(call.call_id.json())?;
        while let Some((at, output)) = outputs.pop_front() {
            if at > number {
                self.written.insert(at);
                return Some(output);
            }
        }
        None
    }
}

fn is_media(part: &Part<'_>) -> bool {
    matches!(
        part.kind,
        PartKind::Image { .. } | PartKind::Audio { .. } | PartKind::File { .. }
    )
}

/// Refuses a member of chat messages that would contradict the item.
fn foreign(extra: &Extra<'_>) -> ApiError {
    extra.value.unsupported("It belongs to chat messages; an item of this type has members of its own for it. Leave it out.")
}

fn tool_call(call: &Call<'_>, custom_tools: CustomTools) -> Result<String, ApiError> {
    let as_custom = call.kind == ToolKind::Custom && custom_tools == CustomTools::Custom;
    let (kind, argument) = if as_custom {
        ("custom", "input")
    } else {
        ("function", "arguments")
    };
    let input: Cow<'_, str> = match (call.kind, call.input.json()) {
        (ToolKind::Custom, input) if !as_custom => arguments_of(input).into(),
        // A call without arguments. Servers parse the text, and an empty one is not JSON.
        (ToolKind::Function, "\"\"") => "\"{}\"".into(),
        (_, input) => input.into(),
    };
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("id", call.call_id.json());
    object.string("type", kind);
    let mut inner = ObjectWriter::begin(object.name(kind));
    match &call.namespace {
        None => inner.raw("name", call.name.json()),
        Some(namespace) => {
            let name = sent_name(Some(namespace), &call.name);
            inner.raw("name", &["\"", &name, "\""].concat());
        }
    }
    inner.raw(argument, &input);
    inner.end();
    if let Some(provider) = &call.provider {
        object.raw("extra_content", provider.json());
    }
    extras(
        &mut object,
        &call.extra,
        &["id", "type", "function", "custom", "extra_content"],
    )?;
    object.end();
    Ok(out)
}

// === reasoning ===

/// Returns the members of an assistant message that give reasoning back, in the order in which they
/// were received.
fn fields(
    reasoning: &[&Reasoning<'_>],
    back: ReasoningBack,
    has_calls: bool,
) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, json: &str| match fields.iter_mut().find(|(known, _)| known == name)
    {
        Some((_, value)) => append(value, json),
        None => fields.push((name.to_owned(), json.to_owned())),
    };
    let texts = |reasoning: &Reasoning<'_>| {
        let mut json = String::from("\"");
        json.extend(reasoning.text.iter().filter_map(Value::inside));
        json.push('"');
        json
    };
    match back {
        ReasoningBack::Never => {}
        ReasoningBack::AsReceived(unnamed) => {
            for reasoning in reasoning {
                let named = reasoning
                    .fields
                    .iter()
                    .filter(|field| REASONING.contains(&&*field.name));
                named
                    .clone()
                    .for_each(|field| add(&field.name, field.value.json()));
                if let Some(field) = unnamed
                    && named.count() == 0
                    && !reasoning.text.is_empty()
                {
                    add(field.name(), &texts(reasoning));
                }
            }
        }
        ReasoningBack::As(field) => {
            for reasoning in reasoning {
                let named = reasoning
                    .fields
                    .iter()
                    .find(|known| known.name == field.name());
                match named {
                    Some(known) => add(field.name(), known.value.json()),
                    None if reasoning.text.is_empty() => {}
                    None => add(field.name(), &texts(reasoning)),
                }
            }
            if fields.is_empty() && has_calls {
                fields.push((field.name().to_owned(), "\"\"".to_owned()));
            }
        }
    }
    fields
}

/// Appends a string to a string, or the elements of an array to an array. Of other values the last
/// one stays.
fn append(value: &mut String, more: &str) {
    let is =
        |open, close| value.starts_with(open) && more.starts_with(open) && value.ends_with(close);
    if is('"', '"') {
        value.pop();
        value.push_str(&more[1..]);
    } else if is('[', ']') {
        let elements = more[1..].trim_start();
        let empty = value[1..value.len() - 1].trim().is_empty();
        value.pop();
        if !empty && elements != "]" {
            value.push(',');
        }
        value.push_str(elements);
    } else {
        *value = more.to_owned();
    }
}
