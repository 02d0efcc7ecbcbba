//! Tools of a responses request, and the choice among them, in canonical form.

use super::REMEDY;
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node};
use crate::request::canonical::{
    Choosable, CustomTool, Extra, FunctionTool, NamedTool, Namespace, Tool, ToolChoice, ToolKind,
    Value,
};

/// Members of every tool that have a meaning in this language only: whether a tool is shown to the
/// model at once, and who may call it.
const OWN: &[&str] = &[
    "type",
    "name",
    "description",
    "defer_loading",
    "allowed_callers",
];

/// Reads `{"type":"function","name",…}` and the other kinds of tool.
pub(super) fn tool(node: Node<'_>) -> Result<Tool<'_>, ApiError> {
    let object = node.object()?;
    let kind = object.require("type")?;
    Ok(match kind.text()?.as_ref() {
        "function" => Tool::Function(FunctionTool {
            name: required(&object, "name")?,
            description: value(&object, "description"),
            parameters: value(&object, "parameters"),
            strict: value(&object, "strict"),
            extra: Extra::others(&object, &[OWN, &["parameters", "strict"]].concat()),
        }),
        "custom" => Tool::Custom(CustomTool {
            name: required(&object, "name")?,
            description: value(&object, "description"),
            grammar: grammar(&object)?,
            extra: Extra::others(&object, &[OWN, &["format"]].concat()),
        }),
        "namespace" => {
            object.only(&[OWN, &["tools"]].concat(), REMEDY)?;
            Tool::Namespace(Namespace {
                name: required(&object, "name")?,
                description: value(&object, "description"),
                tools: object
                    .require("tools")?
                    .array()?
                    .into_iter()
                    .map(tool)
                    .collect::<Result<_, _>>()?,
            })
        }
        _ => Tool::BuiltIn {
            kind: kind.into(),
            raw: node.into(),
        },
    })
}

/// Reads the format of a custom tool's input: a grammar, or `None` for any text.
fn grammar<'a>(tool: &Members<'a>) -> Result<Option<(Value<'a>, Value<'a>)>, ApiError> {
    let Some(format) = tool.node("format") else {
        return Ok(None);
    };
    let format = format.object()?;
    let kind = format.require("type")?;
    match kind.text()?.as_ref() {
        "text" => Ok(None),
        "grammar" => Ok(Some((
            required(&format, "syntax")?,
            required(&format, "definition")?,
        ))),
        _ => Err(kind.unsupported(&format!(
            "The input of a custom tool is 'text' or has a 'grammar'. {REMEDY}"
        ))),
    }
}

/// Reads a `tool_choice`.
pub(super) fn tool_choice(node: Node<'_>) -> Result<ToolChoice<'_>, ApiError> {
    ToolChoice::read(node, named, |object| {
        object.only(&["type", "mode", "tools"], REMEDY)?;
        Ok(object)
    })
}

/// Reads a tool by its name, or the type of one that the server runs.
fn named<'a>(object: &Members<'a>) -> Result<Choosable<'a>, ApiError> {
    let type_name = object.require("type")?;
    let kind = match type_name.text()?.as_ref() {
        "function" => ToolKind::Function,
        "custom" => ToolKind::Custom,
        _ => return Ok(Err(type_name.into())),
    };
    object.only(&["type", "name", "namespace"], REMEDY)?;
    Ok(Ok(NamedTool {
        kind,
        type_name: type_name.into(),
        namespace: value(object, "namespace"),
        name: required(object, "name")?,
    }))
}

fn required<'a>(object: &Members<'a>, name: &str) -> Result<Value<'a>, ApiError> {
    Value::of_kind(object.require(name)?, Kind::String)
}

fn value<'a>(object: &Members<'a>, name: &str) -> Option<Value<'a>> {
    object.node(name).map(Value::from)
}
