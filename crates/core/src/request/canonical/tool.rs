//! Tools, and the choice among them.

use super::{Extra, ToolKind, Value, extra};
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node};

/// A tool that the model may call.
#[derive(Clone, Debug)]
pub enum Tool<'a> {
    /// A function.
    Function(FunctionTool<'a>),
    /// A custom tool.
    Custom(CustomTool<'a>),
    /// Tools under a common name.
    Namespace(Namespace<'a>),
    /// A tool that the server itself runs.
    BuiltIn {
        /// Its type, a string.
        kind: Value<'a>,
        /// The whole tool.
        raw: Value<'a>,
    },
}

/// A function. Its arguments are JSON.
#[derive(Clone, Debug)]
pub struct FunctionTool<'a> {
    /// Its name, a string.
    pub name: Value<'a>,
    /// What it does, a string.
    pub description: Option<Value<'a>>,
    /// The schema of its arguments, an object.
    pub parameters: Option<Value<'a>>,
    /// Whether the arguments must match the schema exactly, a boolean.
    pub strict: Option<Value<'a>>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// A custom tool. Its input is free text.
#[derive(Clone, Debug)]
pub struct CustomTool<'a> {
    /// Its name, a string.
    pub name: Value<'a>,
    /// What it does, a string.
    pub description: Option<Value<'a>>,
    /// The grammar of its input: syntax and definition, strings. `None`: any text.
    pub grammar: Option<(Value<'a>, Value<'a>)>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// Tools under a common name.
#[derive(Clone, Debug)]
pub struct Namespace<'a> {
    /// Its name, a string.
    pub name: Value<'a>,
    /// What its tools are for, a string.
    pub description: Option<Value<'a>>,
    /// Functions and custom tools.
    pub tools: Vec<Tool<'a>>,
}

/// Which tools the model may or must call.
#[derive(Clone, Debug)]
pub enum ToolChoice<'a> {
    /// `auto`, `none`, `required`, or another word: a string.
    Mode(Value<'a>),
    /// It must call this tool.
    Named(NamedTool<'a>),
    /// It may call, or must call one of, these tools.
    Allowed(Allowed<'a>),
    /// It must call a tool of this type, which the server itself runs.
    BuiltIn(Value<'a>),
}

/// Some of the tools.
#[derive(Clone, Debug)]
pub struct Allowed<'a> {
    /// `auto` or `required`, a string.
    pub mode: Value<'a>,
    /// The tools: a named one, or the type of one that the server runs.
    pub tools: Vec<Result<NamedTool<'a>, Value<'a>>>,
}

/// A tool by its name, or the type of one that the server runs.
pub(in crate::request) type Choosable<'a> = Result<NamedTool<'a>, Value<'a>>;

/// A tool by its name.
#[derive(Clone, Debug)]
pub struct NamedTool<'a> {
    /// The kind of tool.
    pub kind: ToolKind,
    /// Its type as the client sent it, a string.
    pub type_name: Value<'a>,
    /// Its namespace, a string.
    pub namespace: Option<Value<'a>>,
    /// Its name, a string.
    pub name: Value<'a>,
}

// === impl Tool ===

impl Tool<'_> {
    pub(super) fn into_owned(self) -> Tool<'static> {
        match self {
            Self::Function(tool) => Tool::Function(FunctionTool {
                name: tool.name.into_owned(),
                description: tool.description.map(Value::into_owned),
                parameters: tool.parameters.map(Value::into_owned),
                strict: tool.strict.map(Value::into_owned),
                extra: extra::owned(tool.extra),
            }),
            Self::Custom(tool) => Tool::Custom(CustomTool {
                name: tool.name.into_owned(),
                description: tool.description.map(Value::into_owned),
                grammar: tool
                    .grammar
                    .map(|(syntax, definition)| (syntax.into_owned(), definition.into_owned())),
                extra: extra::owned(tool.extra),
            }),
            Self::Namespace(namespace) => Tool::Namespace(Namespace {
                name: namespace.name.into_owned(),
                description: namespace.description.map(Value::into_owned),
                tools: namespace.tools.into_iter().map(Tool::into_owned).collect(),
            }),
            Self::BuiltIn { kind, raw } => Tool::BuiltIn {
                kind: kind.into_owned(),
                raw: raw.into_owned(),
            },
        }
    }
}

// === impl ToolChoice ===

impl<'a> ToolChoice<'a> {
    /// Reads a choice. `named` reads the tool of an object, and `allowed` returns the object with the
    /// mode and the tools, which some languages nest.
    pub(in crate::request) fn read(
        node: Node<'a>,
        named: impl Fn(&Members<'a>) -> Result<Choosable<'a>, ApiError>,
        allowed: impl FnOnce(Members<'a>) -> Result<Members<'a>, ApiError>,
    ) -> Result<Self, ApiError> {
        if node.kind() == Kind::String {
            return Ok(Self::Mode(node.into()));
        }
        let object = node.object()?;
        if object.require("type")?.text()? != "allowed_tools" {
            return Ok(match named(&object)? {
                Ok(tool) => Self::Named(tool),
                Err(kind) => Self::BuiltIn(kind),
            });
        }
        let allowed = allowed(object)?;
        let tools = allowed.require("tools")?.array()?;
        Ok(Self::Allowed(Allowed {
            mode: Value::of_kind(allowed.require("mode")?, Kind::String)?,
            tools: tools
                .iter()
                .map(|tool| named(&tool.object()?))
                .collect::<Result<_, _>>()?,
        }))
    }
}

impl ToolChoice<'_> {
    pub(super) fn into_owned(self) -> ToolChoice<'static> {
        match self {
            Self::Mode(mode) => ToolChoice::Mode(mode.into_owned()),
            Self::Named(tool) => ToolChoice::Named(tool.into_owned()),
            Self::Allowed(Allowed { mode, tools }) => ToolChoice::Allowed(Allowed {
                mode: mode.into_owned(),
                tools: tools
                    .into_iter()
                    .map(|tool| tool.map(NamedTool::into_owned).map_err(Value::into_owned))
                    .collect(),
            }),
            Self::BuiltIn(kind) => ToolChoice::BuiltIn(kind.into_owned()),
        }
    }
}

impl NamedTool<'_> {
    fn into_owned(self) -> NamedTool<'static> {
        NamedTool {
            kind: self.kind,
            type_name: self.type_name.into_owned(),
            namespace: self.namespace.map(Value::into_owned),
            name: self.name.into_owned(),
        }
    }
}
