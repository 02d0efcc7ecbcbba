//! The items of a conversation.

use super::{Extra, Part, Value, extra};

/// An item of a conversation.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    /// A message.
    Message(Message<'a>),
    /// Reasoning of an earlier answer.
    Reasoning(Reasoning<'a>),
    /// A call of a tool.
    Call(Call<'a>),
    /// What a tool returned.
    Output(Output<'a>),
    /// An item that is not modelled.
    Unmodelled(Unmodelled<'a>),
}

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The operator of the model.
    System,
    /// The developer of the application.
    Developer,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Its author.
    pub role: Role,
    /// Its content.
    pub content: Vec<Part<'a>>,
    /// The name of the participant, a string.
    pub name: Option<Value<'a>>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// Reasoning of an earlier answer.
#[derive(Clone, Debug, Default)]
pub struct Reasoning<'a> {
    /// Its texts, strings.
    pub text: Vec<Value<'a>>,
    /// The members that an upstream sent it in, under their names. A string or any other value.
    /// Empty: it is known as `text` only, and under no name.
    pub fields: Vec<Extra<'a>>,
    /// The reasoning as a model server sealed it, a string.
    pub encrypted: Option<Value<'a>>,
    /// Its id at the server that made it, a string.
    pub id: Option<Value<'a>>,
    /// Its summary, an array.
    pub summary: Option<Value<'a>>,
}

/// The two kinds of tool that a client runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolKind {
    /// A function, whose arguments are JSON.
    Function,
    /// A custom tool, whose input is free text.
    Custom,
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The kind of tool.
    pub kind: ToolKind,
    /// The id that its output refers to, a string.
    pub call_id: Value<'a>,
    /// The namespace of the tool, a string.
    pub namespace: Option<Value<'a>>,
    /// The tool's name, a string.
    pub name: Value<'a>,
    /// The arguments of a function or the input of a custom tool, a string.
    pub input: Value<'a>,
    /// Fields of the provider (`extra_content`), which go back as they came.
    pub provider: Option<Value<'a>>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// What a tool returned.
#[derive(Clone, Debug)]
pub struct Output<'a> {
    /// The kind of tool.
    pub kind: ToolKind,
    /// The id of the call, a string.
    pub call_id: Value<'a>,
    /// The content.
    pub content: Vec<Part<'a>>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// An item that is not modelled.
#[derive(Clone, Debug)]
pub struct Unmodelled<'a> {
    /// Its type, a string.
    pub kind: Value<'a>,
    /// The whole item.
    pub raw: Value<'a>,
    /// Whether the item may be left out where the language has no such items: it says nothing to
    /// the model that the other items do not say.
    pub optional: bool,
}

// === impl Role ===

impl Role {
    /// Returns the role as all languages spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// Returns the role of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "system" => Self::System,
            "developer" => Self::Developer,
            "user" => Self::User,
            "assistant" => Self::Assistant,
            _ => return None,
        })
    }
}

// === impl Message ===

impl<'a> Message<'a> {
    /// A message of this role and content.
    #[must_use]
    pub fn new(role: Role, content: Vec<Part<'a>>) -> Self {
        Self {
            role,
            content,
            name: None,
            extra: Vec::new(),
        }
    }
}

// === impl Item ===

impl Item<'_> {
    /// Copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> Item<'static> {
        match self {
            Self::Message(message) => Item::Message(Message {
                role: message.role,
                content: owned_parts(message.content),
                name: message.name.map(Value::into_owned),
                extra: extra::owned(message.extra),
            }),
            Self::Reasoning(reasoning) => Item::Reasoning(Reasoning {
                text: reasoning.text.into_iter().map(Value::into_owned).collect(),
                fields: extra::owned(reasoning.fields),
                encrypted: reasoning.encrypted.map(Value::into_owned),
                id: reasoning.id.map(Value::into_owned),
                summary: reasoning.summary.map(Value::into_owned),
            }),
            Self::Call(call) => Item::Call(Call {
                kind: call.kind,
                call_id: call.call_id.into_owned(),
                namespace: call.namespace.map(Value::into_owned),
                name: call.name.into_owned(),
                input: call.input.into_owned(),
                provider: call.provider.map(Value::into_owned),
                extra: extra::owned(call.extra),
            }),
            Self::Output(output) => Item::Output(Output {
                kind: output.kind,
                call_id: output.call_id.into_owned(),
                content: owned_parts(output.content),
                extra: extra::owned(output.extra),
            }),
            Self::Unmodelled(item) => Item::Unmodelled(Unmodelled {
                kind: item.kind.into_owned(),
                raw: item.raw.into_owned(),
                optional: item.optional,
            }),
        }
    }
}

fn owned_parts(parts: Vec<Part<'_>>) -> Vec<Part<'static>> {
    parts.into_iter().map(Part::into_owned).collect()
}
