//! Response items in canonical form.

use serde_json::value::RawValue;

use super::content::parts;
use super::history_ids::HistoryIds;
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, quote};
use crate::request::canonical::{
    Call, Extra, Item, Message, Output, Part, Reasoning, Role, ToolKind, Unmodelled, Value,
};
use crate::request::item::type_of;

/// The member of a kept item that is the gateway's own. Clients never see it.
pub(super) const PRIVATE: &str = "tokenwire";

/// Types of item that say nothing to the model which the other items do not say.
const OPTIONAL: &[&str] = &["image_generation_call", "web_search_call", "mcp_list_tools"];

/// Reads the items of one conversation.
pub(super) struct Items<'a, 'h> {
    items: Vec<Item<'a>>,
    ids: HistoryIds<'a, 'h>,
}

// === impl Items ===

impl<'a, 'h> Items<'a, 'h> {
    /// Reads the items of the earlier turns and of the input, in this order.
    pub(super) fn read(
        history: &'h [&'a RawValue],
        input: &Node<'a>,
    ) -> Result<Vec<Item<'a>>, ApiError> {
        let mut this = Self {
            items: Vec::with_capacity(history.len() + 1),
            ids: HistoryIds::new(history),
        };
        for (i, item) in history.iter().enumerate() {
            let node = Node::new(item, format!("previous_response_id.items[{i}]"));
            this.item(&node)
                .map_err(|error| error.param("previous_response_id"))?;
        }
        if input.kind() == Kind::String {
            let text = Part::text(Value::new(input.raw, "input"));
            this.items
                .push(Item::Message(Message::new(Role::User, vec![text])));
        } else {
            for item in input.array()? {
                this.item(&item)?;
            }
        }
        Ok(this.items)
    }

    fn item(&mut self, node: &Node<'a>) -> Result<(), ApiError> {
        let object = node.object()?;
        let item = match type_of(&object)?.as_ref() {
            "message" => Item::Message(message(&object)?),
            "function_call" => Item::Call(call(&object, ToolKind::Function, "arguments")?),
            "custom_tool_call" => Item::Call(call(&object, ToolKind::Custom, "input")?),
            "function_call_output" => Item::Output(output(&object, ToolKind::Function)?),
            "custom_tool_call_output" => Item::Output(output(&object, ToolKind::Custom)?),
            "reasoning" => Item::Reasoning(reasoning(&object)?),
            "item_reference" => return self.reference(&object),
            other => Item::Unmodelled(Unmodelled {
                kind: object.require("type")?.into(),
                raw: node.clone().into(),
                optional: OPTIONAL.contains(&other),
            }),
        };
        self.items.push(item);
        Ok(())
    }

    /// Accepts a reference to an item of the history, which is there in full.
    fn reference(&mut self, object: &Members<'a>) -> Result<(), ApiError> {
        let id = object.require("id")?;
        let text = id.text()?;
        if self.ids.contains(&text) {
            return Ok(());
        }
        Err(id.invalid(
            "the id of an item of the conversation that 'previous_response_id' names",
            &format!("'{}'", quote(&text)),
        ))
    }
}

fn message<'a>(item: &Members<'a>) -> Result<Message<'a>, ApiError> {
    let role = item.require("role")?;
    let name = role.text()?;
    let Some(role) = Role::of(&name) else {
        return Err(role.invalid(
            "'user', 'assistant', 'system' or 'developer'",
            &format!("'{}'", quote(&name)),
        ));
    };
    const KNOWN: &[&str] = &[
        "type", "id", "role", "content", "status", "phase", "name", PRIVATE,
    ];
    Ok(Message {
        role,
        content: parts(item.require("content")?, role == Role::Assistant)?,
        name: item
            .node("name")
            .map(|node| Value::of_kind(node, Kind::String))
            .transpose()?,
        extra: Extra::others(item, KNOWN),
    })
}

fn call<'a>(item: &Members<'a>, kind: ToolKind, input: &str) -> Result<Call<'a>, ApiError> {
    let known = [
        "type",
        "id",
        "call_id",
        "name",
        "namespace",
        "status",
        "extra_content",
        PRIVATE,
        input,
    ];
    let string = |name| Value::of_kind(item.require(name)?, Kind::String);
    Ok(Call {
        kind,
        call_id: string("call_id")?,
        namespace: item
            .node("namespace")
            .map(|node| Value::of_kind(node, Kind::String))
            .transpose()?,
        name: string("name")?,
        input: string(input)?,
        provider: private(item, "extra_content")?
            .or_else(|| item.node("extra_content").map(Value::from)),
        extra: Extra::others(item, &known),
    })
}

fn output<'a>(item: &Members<'a>, kind: ToolKind) -> Result<Output<'a>, ApiError> {
    const KNOWN: &[&str] = &["type", "id", "call_id", "name", "output", "status", PRIVATE];
    Ok(Output {
        kind,
        call_id: Value::of_kind(item.require("call_id")?, Kind::String)?,
        content: parts(item.require("output")?, false)?,
        extra: Extra::others(item, KNOWN),
    })
}

/// Reads reasoning. A malformed one is read as far as it is known: an upstream may have sent it.
fn reasoning<'a>(item: &Members<'a>) -> Result<Reasoning<'a>, ApiError> {
    let text = |name: &str| {
        item.node(name)
            .filter(|node| node.kind() == Kind::String)
            .map(Value::from)
    };
    let mut reasoning = Reasoning {
        encrypted: text("encrypted_content"),
        id: text("id"),
        summary: item.node("summary").map(Value::from),
        ..Reasoning::default()
    };
    let content = item.node("content").map(|node| node.array());
    for part in content.and_then(Result::ok).into_iter().flatten() {
        if let Ok(part) = part.object()
            && let Some(text) = part.node("text")
            && text.kind() == Kind::String
        {
            reasoning.text.push(text.into());
        }
    }
    let Some(kept) = item.node(PRIVATE) else {
        return Ok(reasoning);
    };
    let kept = kept.object()?;
    if let Some(field) = kept.node("field") {
        let name = field.text()?.into_owned();
        let value = match kept.node("value") {
            Some(value) => value.into(),
            None => Value::owned(join(&reasoning.text), field.path),
        };
        reasoning.fields.push(Extra::new(name, value));
    }
    if let Some(fields) = kept.node("fields") {
        let fields = fields.object()?;
        reasoning.fields.extend(Extra::others(&fields, &[]));
    }
    Ok(reasoning)
}

/// Returns one JSON string of all texts.
fn join(texts: &[Value<'_>]) -> String {
    let length: usize = texts.iter().map(|text| text.json().len()).sum();
    let mut out = String::with_capacity(length + 2);
    out.push('"');
    out.extend(texts.iter().filter_map(Value::inside));
    out.push('"');
    out
}

/// Returns a member of the gateway's own part of a kept item.
fn private<'a>(item: &Members<'a>, name: &str) -> Result<Option<Value<'a>>, ApiError> {
    let Some(kept) = item.node(PRIVATE) else {
        return Ok(None);
    };
    Ok(kept.object()?.node(name).map(Value::from))
}
