//! Tools of a chat request, and the choice among them, in canonical form.

use super::REMEDY;
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node};
use crate::request::canonical::{
    Choosable, CustomTool, Extra, FunctionTool, NamedTool, Tool, ToolChoice, ToolKind, Value,
};

/// Reads the tools.
pub(super) fn tools<'a>(request: &Members<'a>) -> Result<Vec<Tool<'a>>, ApiError> {
    let Some(tools) = request.node("tools") else {
        return Ok(Vec::new());
    };
    tools.array()?.into_iter().map(tool).collect()
}

fn tool(node: Node<'_>) -> Result<Tool<'_>, ApiError> {
    let object = node.object()?;
    let kind = object.require("type")?;
    let name = kind.text()?;
    if !matches!(name.as_ref(), "function" | "custom") {
        return Ok(Tool::BuiltIn {
            kind: kind.into(),
            raw: node.into(),
        });
    }
    let inner = object.require(&name)?.object()?;
    let mut extra = Extra::others(&object, &["type", &*name]);
    if name == "custom" {
        extra.extend(Extra::others(&inner, &["name", "description", "format"]));
        return Ok(Tool::Custom(CustomTool {
            name: required(&inner, "name")?,
            description: value(&inner, "description", Kind::String)?,
            grammar: grammar(&inner)?,
            extra,
        }));
    }
    extra.extend(Extra::others(
        &inner,
        &["name", "description", "parameters", "strict"],
    ));
    Ok(Tool::Function(FunctionTool {
        name: required(&inner, "name")?,
        description: value(&inner, "description", Kind::String)?,
        parameters: value(&inner, "parameters", Kind::Object)?,
        strict: value(&inner, "strict", Kind::Boolean)?,
        extra,
    }))
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
        "grammar" => {
            let grammar = format.require("grammar")?.object()?;
            Ok(Some((
                required(&grammar, "syntax")?,
                required(&grammar, "definition")?,
            )))
        }
        _ => Err(kind.unsupported(&format!(
            "The input of a custom tool is 'text' or has a 'grammar'. {REMEDY}"
        ))),
    }
}

/// Reads a `tool_choice`.
pub(super) fn tool_choice(node: Node<'_>) -> Result<ToolChoice<'_>, ApiError> {
    ToolChoice::read(node, named, |object| {
        object.only(&["type", "allowed_tools"], REMEDY)?;
        let allowed = object.require("allowed_tools")?.object()?;
        allowed.only(&["mode", "tools"], REMEDY)?;
        Ok(allowed)
    })
}

/// Reads a tool by its name, or the type of one that the server runs.
fn named<'a>(object: &Members<'a>) -> Result<Choosable<'a>, ApiError> {
    let type_name = object.require("type")?;
    let name = type_name.text()?;
    let kind = match name.as_ref() {
        "function" => ToolKind::Function,
        "custom" => ToolKind::Custom,
        _ => return Ok(Err(type_name.into())),
    };
    object.only(&["type", &*name], REMEDY)?;
    let inner = object.require(&name)?.object()?;
    inner.only(&["name"], REMEDY)?;
    Ok(Ok(NamedTool {
        kind,
        type_name: type_name.clone().into(),
        namespace: None,
        name: required(&inner, "name")?,
    }))
}

fn required<'a>(object: &Members<'a>, name: &str) -> Result<Value<'a>, ApiError> {
    Value::of_kind(object.require(name)?, Kind::String)
}

fn value<'a>(object: &Members<'a>, name: &str, kind: Kind) -> Result<Option<Value<'a>>, ApiError> {
    object
        .node(name)
        .map(|node| Value::of_kind(node, kind))
        .transpose()
}
