//! Tools and the choice among them, as a chat request has them.

use super::REMEDY;
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, ObjectWriter, push_array, quote, unsupported};

/// Translates `{"type":"function","name",…}` to `{"type":"function","function":{"name",…}}`.
pub(super) fn tool(node: &Node<'_>) -> Result<String, ApiError> {
    const INNER: &[&str] = &["name", "description", "parameters", "strict"];
    let object = node.object()?;
    let kind = object.require("type")?;
    let name = kind.text()?;
    if name != "function" {
        let why = "A chat-completions upstream takes tools of type 'function', not";
        return Err(kind.unsupported(&format!(
            "{why} '{}'. Declare a function that does it, or use an upstream that speaks the Responses API.",
            quote(&name)
        )));
    }
    object.require("name")?.of_kind(Kind::String)?;
    let mut out = String::new();
    let mut tool = ObjectWriter::begin(&mut out);
    tool.raw("type", "\"function\"");
    let mut function = ObjectWriter::begin(tool.name("function"));
    for name in INNER {
        if let Some(value) = object.node(name) {
            function.raw(name, value.raw.get());
        }
    }
    function.end();
    for (name, value) in object.others(&["type", "name", "description", "parameters", "strict"]) {
        if name == "function" {
            return Err(unsupported(
                &object.path_of(name),
                "A tool of the Responses API has 'name' and 'parameters' beside its 'type'.",
            ));
        }
        tool.raw(name, value.get());
    }
    tool.end();
    Ok(out)
}

/// Translates a `tool_choice`.
pub(super) fn tool_choice(node: &Node<'_>) -> Result<String, ApiError> {
    if node.kind() == Kind::String {
        return Ok(node.raw.get().to_owned());
    }
    let object = node.object()?;
    let kind = object.require("type")?;
    let mut out = String::new();
    match kind.text()?.as_ref() {
        "function" => {
            object.only(&["type", "name"], REMEDY)?;
            push_function_choice(&mut out, &object)?;
        }
        "allowed_tools" => {
            object.only(&["type", "mode", "tools"], REMEDY)?;
            let mut choice = ObjectWriter::begin(&mut out);
            choice.raw("type", "\"allowed_tools\"");
            let mut allowed = ObjectWriter::begin(choice.name("allowed_tools"));
            allowed.raw("mode", object.require("mode")?.of_kind(Kind::String)?);
            let mut tools = Vec::new();
            for tool in object.require("tools")?.array()? {
                let tool = tool.object()?;
                let kind = tool.require("type")?;
                if kind.text()? != "function" {
                    return Err(kind.unsupported(&format!(
                        "A chat-completions upstream has tools of type 'function' only. {REMEDY}"
                    )));
                }
                let mut out = String::new();
                push_function_choice(&mut out, &tool)?;
                tools.push(out);
            }
            push_array(allowed.name("tools"), &tools, |out, tool| {
                out.push_str(tool)
            });
            allowed.end();
            choice.end();
        }
        other => {
            let why = "A chat-completions upstream takes a choice of type 'function' or 'allowed_tools', not";
            return Err(kind.unsupported(&format!("{why} '{}'. {REMEDY}", quote(other))));
        }
    }
    Ok(out)
}

fn push_function_choice(out: &mut String, object: &Members<'_>) -> Result<(), ApiError> {
    let name = object.require("name")?.of_kind(Kind::String)?;
    let mut choice = ObjectWriter::begin(out);
    choice.raw("type", "\"function\"");
    let mut function = ObjectWriter::begin(choice.name("function"));
    function.raw("name", name);
    function.end();
    choice.end();
    Ok(())
}
