//! Chat messages in canonical form.
//!
//! In chat an assistant message holds its tool calls. In canonical form each call is an item, and so
//! is each tool output.

use std::collections::HashSet;

use super::REMEDY;
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, quote};
use crate::request::canonical::{
    Call, Extra, Item, Message, Output, Part, PartKind, Reasoning, Role, ToolKind, Value,
};

/// Members of an assistant message that hold the reasoning of that answer.
const REASONING: &[&str] = &[
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
];

/// Members of an assistant message that repeat the text and the calls, or that a client library
/// added. They are accepted and not read.
const REPEATED: &[&str] = &["annotations", "parsed", "provider_specific_fields"];

struct Reader<'a> {
    items: Vec<Item<'a>>,
    /// The ids of calls of custom tools, whose outputs are of that kind, too. JSON.
    custom: HashSet<&'a str>,
}

/// Reads the messages.
pub(super) fn items<'a>(messages: &Node<'a>) -> Result<Vec<Item<'a>>, ApiError> {
    let messages = messages.array()?;
    let mut reader = Reader {
        items: Vec::with_capacity(messages.len()),
        custom: HashSet::new(),
    };
    for message in &messages {
        reader.message(&message.object()?)?;
    }
    Ok(reader.items)
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn message(&mut self, message: &Members<'a>) -> Result<(), ApiError> {
        let role = message.require("role")?;
        let name = role.text()?;
        match (name.as_ref(), Role::of(&name)) {
            (_, Some(Role::Assistant)) => self.assistant(message),
            (_, Some(role)) => {
                self.items.push(Item::Message(Message {
                    role,
                    content: content(&message.require("content")?, false)?,
                    name: string(message, "name")?,
                    extra: Extra::others(message, &["role", "content", "name"]),
                }));
                Ok(())
            }
            ("tool", _) => {
                let call_id = message.require("tool_call_id")?;
                let kind = match call_id.of_kind(Kind::String)? {
                    id if self.custom.contains(id) => ToolKind::Custom,
                    _ => ToolKind::Function,
                };
                self.items.push(Item::Output(Output {
                    kind,
                    call_id: call_id.into(),
                    content: content(&message.require("content")?, false)?,
                    // The name of the tool, which some clients repeat.
                    extra: Extra::others(message, &["role", "content", "tool_call_id", "name"]),
                }));
                Ok(())
            }
            ("function", _) => Err(role.unsupported(
                "Functions are called as tools: answer with a message of the role 'tool'.",
            )),
            (other, _) => Err(role.invalid(
                "'system', 'developer', 'user', 'assistant' or 'tool'",
                &format!("'{}'", quote(other)),
            )),
        }
    }

    /// Reads the reasoning, then the text, if there is any, then each call.
    fn assistant(&mut self, message: &Members<'a>) -> Result<(), ApiError> {
        let fields = REASONING
            .iter()
            .filter_map(|name| Some((*name, message.node(name)?)));
        let mut reasoning = Reasoning::default();
        for (name, node) in fields {
            if node.kind() == Kind::String && reasoning.text.is_empty() {
                reasoning.text.push(node.clone().into());
            }
            reasoning.fields.push(Extra::new(name, node.into()));
        }
        if !reasoning.fields.is_empty() {
            self.items.push(Item::Reasoning(reasoning));
        }
        let calls = message
            .node("tool_calls")
            .map(|node| node.array())
            .transpose()?
            .unwrap_or_default();
        let known = [
            &["role", "content", "name", "refusal", "tool_calls"],
            REASONING,
            REPEATED,
        ]
        .concat();
        let extra = Extra::others(message, &known);
        let mut parts = match message.node("content") {
            // An empty text would stand between the calls and the message that they answer.
            Some(node) if node.raw.get() != "\"\"" => content(&node, true)?,
            _ => Vec::new(),
        };
        if let Some(refusal) = string(message, "refusal")? {
            parts.push(Part {
                name: refusal.clone(),
                kind: PartKind::Refusal(refusal),
                extra: Vec::new(),
            });
        }
        let name = string(message, "name")?;
        if !parts.is_empty() || !extra.is_empty() || name.is_some() || calls.is_empty() {
            self.items.push(Item::Message(Message {
                role: Role::Assistant,
                content: parts,
                name,
                extra,
            }));
        }
        for call in &calls {
            let call = self.call(&call.object()?)?;
            self.items.push(Item::Call(call));
        }
        Ok(())
    }

    fn call(&mut self, call: &Members<'a>) -> Result<Call<'a>, ApiError> {
        let type_name = call.node("type");
        let name = type_name.as_ref().map(Node::text).transpose()?;
        let kind = match name.as_deref() {
            None | Some("function") => ToolKind::Function,
            Some("custom") => ToolKind::Custom,
            Some(other) => {
                let why = format!(
                    "Calls of functions and custom tools can be sent to other upstreams, not of '{}'. {REMEDY}",
                    quote(other)
                );
                return Err(type_name.map_or_else(
                    || crate::model::json::missing(&call.path_of("type")),
                    |node| node.unsupported(&why),
                ));
            }
        };
        let id = call.require("id")?;
        let (member, argument) = match kind {
            ToolKind::Function => ("function", "arguments"),
            ToolKind::Custom => {
                self.custom.insert(id.of_kind(Kind::String)?);
                ("custom", "input")
            }
        };
        let inner = call.require(member)?.object()?;
        inner.only(&["name", argument, "parsed_arguments"], REMEDY)?;
        let required = |name| Value::of_kind(inner.require(name)?, Kind::String);
        Ok(Call {
            kind,
            call_id: Value::of_kind(id, Kind::String)?,
            namespace: None,
            name: required("name")?,
            input: required(argument)?,
            provider: call.node("extra_content").map(Value::from),
            extra: Extra::others(call, &["id", "type", "index", "extra_content", member]),
        })
    }
}

fn string<'a>(object: &Members<'a>, name: &str) -> Result<Option<Value<'a>>, ApiError> {
    object
        .node(name)
        .map(|node| Value::of_kind(node, Kind::String))
        .transpose()
}

// === content ===

fn content<'a>(node: &Node<'a>, assistant: bool) -> Result<Vec<Part<'a>>, ApiError> {
    Part::read_content(node, |element| part(element, assistant))
}

fn part<'a>(node: &Node<'a>, assistant: bool) -> Result<Part<'a>, ApiError> {
    let object = node.object()?;
    let type_name = object.require("type")?;
    let name = type_name.text()?;
    let mut extra = Vec::new();
    let kind = match name.as_ref() {
        "text" => PartKind::Text(Value::of_kind(object.require("text")?, Kind::String)?),
        "refusal" if assistant => {
            PartKind::Refusal(Value::of_kind(object.require("refusal")?, Kind::String)?)
        }
        "image_url" if !assistant => {
            let image = object.require("image_url")?;
            if image.kind() == Kind::String {
                // Some clients write the URL itself.
                PartKind::Image {
                    url: Some(image.into()),
                    file_id: None,
                    detail: None,
                }
            } else {
                let image = image.object()?;
                extra = Extra::others(&image, &["url", "detail"]);
                PartKind::Image {
                    url: Some(Value::of_kind(image.require("url")?, Kind::String)?),
                    file_id: None,
                    detail: string(&image, "detail")?.filter(|detail| detail.json() != "\"auto\""),
                }
            }
        }
        "input_audio" if !assistant => {
            let audio = object.require("input_audio")?.object()?;
            extra = Extra::others(&audio, &["data", "format"]);
            PartKind::Audio {
                data: Value::of_kind(audio.require("data")?, Kind::String)?,
                format: Value::of_kind(audio.require("format")?, Kind::String)?,
            }
        }
        "file" if !assistant => {
            let file = object.require("file")?.object()?;
            extra = Extra::others(&file, &["filename", "file_data", "file_id"]);
            PartKind::File {
                filename: string(&file, "filename")?,
                data: string(&file, "file_data")?,
                file_id: string(&file, "file_id")?,
                url: None,
            }
        }
        other => {
            let known = if assistant {
                "'text' and 'refusal'"
            } else {
                "'text', 'image_url', 'input_audio' and 'file'"
            };
            let why = format!(
                "A message of this role takes parts of type {known}, not '{}'. {REMEDY}",
                quote(other)
            );
            return Err(type_name.unsupported(&why));
        }
    };
    // Some client libraries copy members of the message into its text.
    if !(assistant && name == "text") {
        extra.extend(Extra::others(&object, &["type", &*name]));
    }
    Ok(Part {
        kind,
        name: type_name.clone().into(),
        extra,
    })
}
