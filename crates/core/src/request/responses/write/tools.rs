//! Tools and the choice among them, as a responses request has them.

use super::{REMEDY, refuse};
use crate::model::error::ApiError;
use crate::model::json::{ObjectWriter, push_array, quote};
use crate::request::canonical::{
    CanonicalRequest, CustomTool, FunctionTool, NamedTool, Namespace, Tool, ToolChoice, ToolKind,
    Value,
};

/// Adds the tools and the choice among them.
pub(super) fn write(
    request: &CanonicalRequest<'_>,
    body: &mut ObjectWriter<'_>,
) -> Result<(), ApiError> {
    if !request.tools.is_empty() {
        list(&request.tools, body.name("tools"))?;
    }
    if let Some(choice) = &request.tool_choice {
        tool_choice(choice, body.name("tool_choice"))?;
    }
    if let Some(parallel) = &request.parallel_tool_calls {
        body.raw("parallel_tool_calls", parallel.json());
    }
    Ok(())
}

fn list(tools: &[Tool<'_>], out: &mut String) -> Result<(), ApiError> {
    let mut written = Ok(());
    push_array(out, tools, |out, tool| {
        if written.is_ok() {
            written = push_tool(out, tool);
        }
    });
    written
}

fn push_tool(out: &mut String, tool: &Tool<'_>) -> Result<(), ApiError> {
    match tool {
        Tool::Function(tool) => function(tool, out),
        Tool::Custom(tool) => custom(tool, out),
        Tool::Namespace(namespace) => self::namespace(namespace, out),
        Tool::BuiltIn { kind, .. } => Err(no_counterpart(kind)),
    }
}

/// A tool that the client's own language has and the Responses API does not.
fn no_counterpart(kind: &Value<'_>) -> ApiError {
    let found = kind.text().unwrap_or_default();
    kind.unsupported(&format!(
        "A request in another language can offer an upstream that speaks the Responses API functions and custom tools, not '{}'. Ask with POST /v1/responses for others.",
        quote(&found)
    ))
}

fn function(tool: &FunctionTool<'_>, out: &mut String) -> Result<(), ApiError> {
    let mut object = ObjectWriter::begin(out);
    object.raw("type", "\"function\"");
    object.raw("name", tool.name.json());
    if let Some(description) = &tool.description {
        object.raw("description", description.json());
    }
    // Responses requires both, and defaults to `strict`; chat does not.
    let parameters = tool.parameters.as_ref().map(Value::json);
    object.raw(
        "parameters",
        parameters.unwrap_or(r#"{"type":"object","properties":{}}"#),
    );
    let strict = tool.strict.as_ref().map(Value::json);
    object.raw("strict", strict.unwrap_or("false"));
    object.end();
    refuse(&tool.extra)
}

fn custom(tool: &CustomTool<'_>, out: &mut String) -> Result<(), ApiError> {
    let mut object = ObjectWriter::begin(out);
    object.raw("type", "\"custom\"");
    object.raw("name", tool.name.json());
    if let Some(description) = &tool.description {
        object.raw("description", description.json());
    }
    if let Some((syntax, definition)) = &tool.grammar {
        let mut format = ObjectWriter::begin(object.name("format"));
        format.raw("type", "\"grammar\"");
        format.raw("syntax", syntax.json());
        format.raw("definition", definition.json());
        format.end();
    }
    object.end();
    refuse(&tool.extra)
}

fn namespace(namespace: &Namespace<'_>, out: &mut String) -> Result<(), ApiError> {
    let mut object = ObjectWriter::begin(out);
    object.raw("type", "\"namespace\"");
    object.raw("name", namespace.name.json());
    if let Some(description) = &namespace.description {
        object.raw("description", description.json());
    }
    list(&namespace.tools, object.name("tools"))?;
    object.end();
    Ok(())
}

fn tool_choice(choice: &ToolChoice<'_>, out: &mut String) -> Result<(), ApiError> {
    match choice {
        ToolChoice::Mode(mode) => out.push_str(mode.json()),
        ToolChoice::Named(tool) => push_named(out, tool),
        ToolChoice::Allowed(allowed) => {
            let tools: Vec<&NamedTool<'_>> = allowed
                .tools
                .iter()
                .map(|tool| tool.as_ref().map_err(no_counterpart))
                .collect::<Result<_, _>>()?;
            let mut choice = ObjectWriter::begin(out);
            choice.raw("type", "\"allowed_tools\"");
            choice.raw("mode", allowed.mode.json());
            push_array(choice.name("tools"), tools, push_named);
            choice.end();
        }
        ToolChoice::BuiltIn(kind) => {
            let found = kind.text().unwrap_or_default();
            return Err(kind.unsupported(&format!(
                "A request in another language can choose functions and custom tools, not '{}'. {REMEDY}",
                quote(&found)
            )));
        }
    }
    Ok(())
}

fn push_named(out: &mut String, tool: &NamedTool<'_>) {
    let mut choice = ObjectWriter::begin(out);
    choice.raw(
        "type",
        match tool.kind {
            ToolKind::Function => "\"function\"",
            ToolKind::Custom => "\"custom\"",
        },
    );
    if let Some(namespace) = &tool.namespace {
        choice.raw("namespace", namespace.json());
    }
    choice.raw("name", tool.name.json());
    choice.end();
}
