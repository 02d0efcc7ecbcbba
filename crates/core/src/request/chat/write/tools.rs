//! Tools and the choice among them, as a chat request has them.

use super::{ChatMembers, REMEDY, extras};
use crate::model::error::ApiError;
use crate::model::json::{ObjectWriter, escape, push_array, quote, quoted};
use crate::request::canonical::{
    CanonicalRequest, CustomTool, FunctionTool, NamedTool, Tool, ToolChoice, ToolKind, Value,
};
use crate::request::chat::settings::{ChatSettings, CustomTools, UnsupportedTools};
use crate::request::tool_names::{ToolName, ToolNames, qualified};

/// The argument of a function that stands for a custom tool.
pub(crate) const INPUT: &str = "input";

/// The tools as the server knows them.
pub(super) struct Written {
    /// Those with another name or kind.
    pub(super) names: ToolNames,
    /// The types of those that were left out.
    pub(super) dropped: Vec<String>,
}

struct Tools<'s> {
    settings: &'s ChatSettings,
    list: Vec<String>,
    names: Vec<(String, ToolName)>,
    dropped: Vec<String>,
}

/// Adds the tools and the choice among them. A chat server refuses an empty list, and a choice
/// without a list.
pub(super) fn write(
    request: &CanonicalRequest<'_>,
    settings: &ChatSettings,
    members: &mut ChatMembers,
) -> Result<Written, ApiError> {
    let mut tools = Tools {
        settings,
        list: Vec::with_capacity(request.tools.len()),
        names: Vec::new(),
        dropped: Vec::new(),
    };
    for tool in &request.tools {
        tools.add(tool, None)?;
    }
    let empty = tools.list.is_empty();
    if !empty {
        let mut out = String::new();
        push_array(&mut out, &tools.list, |out, tool| out.push_str(tool));
        members.put("tools", out);
    }
    if let Some(choice) = &request.tool_choice
        && let Some(choice) = tools.choice(choice)?
    {
        let idle = empty && matches!(choice.as_str(), "\"auto\"" | "\"none\"");
        if !idle {
            members.put("tool_choice", choice);
        }
    }
    if let Some(parallel) = &request.parallel_tool_calls
        && !empty
    {
        members.put("parallel_tool_calls", parallel.json().to_owned());
    }
    Ok(Written {
        names: tools.names.into_iter().collect(),
        dropped: tools.dropped,
    })
}

/// Returns the name of a tool at the server, JSON-escaped.
pub(super) fn sent_name(namespace: Option<&Value<'_>>, name: &Value<'_>) -> String {
    let name = name.inside().unwrap_or_default();
    match namespace.and_then(Value::inside) {
        Some(namespace) => qualified(namespace, name),
        None => name.to_owned(),
    }
}

/// Returns the arguments of a function that stands for a custom tool, a JSON string. `input` is a
/// JSON string, too.
pub(super) fn arguments_of(input: &str) -> String {
    quoted(&["{\"", INPUT, "\":", input, "}"].concat())
}

// === impl Tools ===

impl Tools<'_> {
    fn add(&mut self, tool: &Tool<'_>, namespace: Option<&Value<'_>>) -> Result<(), ApiError> {
        match tool {
            Tool::Function(tool) => {
                self.rename(ToolKind::Function, namespace, &tool.name);
                let tool = function(tool, namespace)?;
                self.list.push(tool);
            }
            Tool::Custom(tool) => {
                self.rename(ToolKind::Custom, namespace, &tool.name);
                let tool = match self.settings.custom_tools {
                    CustomTools::Function => custom_as_function(tool, namespace)?,
                    CustomTools::Custom => custom(tool, namespace)?,
                };
                self.list.push(tool);
            }
            Tool::Namespace(namespace) => {
                for tool in &namespace.tools {
                    self.add(tool, Some(&namespace.name))?;
                }
            }
            Tool::BuiltIn { kind, .. } => {
                let name = kind.text().unwrap_or_default();
                if self.settings.unsupported_tools == UnsupportedTools::Refuse {
                    return Err(kind.unsupported(&format!(
                        "A chat-completions upstream takes tools of type 'function', 'custom' and 'namespace', not '{}'. Declare a function that does it, or use an upstream that speaks the Responses API.",
                        quote(&name)
                    )));
                }
                let name = quote(&name);
                if !self.dropped.contains(&name) {
                    self.dropped.push(name);
                }
            }
        }
        Ok(())
    }

    /// Keeps how calls of the tool are translated back.
    fn rename(&mut self, kind: ToolKind, namespace: Option<&Value<'_>>, name: &Value<'_>) {
        // A custom tool is known by both kinds: another endpoint may be asked with other settings.
        if namespace.is_none() && kind == ToolKind::Function {
            return;
        }
        let known = ToolName {
            kind,
            namespace: namespace.and_then(Value::inside).map(Box::from),
            name: name.inside().unwrap_or_default().into(),
        };
        self.names.push((sent_name(namespace, name), known));
    }

    /// Writes a choice; `None` if it is of a tool that was left out.
    fn choice(&self, choice: &ToolChoice<'_>) -> Result<Option<String>, ApiError> {
        let drops = self.settings.unsupported_tools == UnsupportedTools::Drop;
        let mut out = String::new();
        match choice {
            ToolChoice::Mode(mode) => out.push_str(mode.json()),
            ToolChoice::Named(tool) => self.push_named(&mut out, tool),
            ToolChoice::Allowed(allowed) => {
                let mut tools = Vec::with_capacity(allowed.tools.len());
                for tool in &allowed.tools {
                    match tool {
                        Ok(tool) => {
                            let mut out = String::new();
                            self.push_named(&mut out, tool);
                            tools.push(out);
                        }
                        Err(_) if drops => {}
                        Err(kind) => return Err(no_choice(kind)),
                    }
                }
                if tools.is_empty() {
                    return Ok(None);
                }
                let mut choice = ObjectWriter::begin(&mut out);
                choice.raw("type", "\"allowed_tools\"");
                let mut object = ObjectWriter::begin(choice.name("allowed_tools"));
                object.raw("mode", allowed.mode.json());
                push_array(object.name("tools"), &tools, |out, tool| out.push_str(tool));
                object.end();
                choice.end();
            }
            ToolChoice::BuiltIn(_) if drops => return Ok(None),
            ToolChoice::BuiltIn(kind) => return Err(no_choice(kind)),
        }
        Ok(Some(out))
    }

    fn push_named(&self, out: &mut String, tool: &NamedTool<'_>) {
        let kind = match (tool.kind, self.settings.custom_tools) {
            (ToolKind::Custom, CustomTools::Custom) => "custom",
            _ => "function",
        };
        let mut choice = ObjectWriter::begin(out);
        choice.string("type", kind);
        let mut inner = ObjectWriter::begin(choice.name(kind));
        push_name(&mut inner, tool.namespace.as_ref(), &tool.name);
        inner.end();
        choice.end();
    }
}

fn no_choice(kind: &Value<'_>) -> ApiError {
    let found = kind.text().unwrap_or_default();
    kind.unsupported(&format!(
        "A chat-completions upstream takes a choice of type 'function', 'custom' or 'allowed_tools', not '{}'. {REMEDY}",
        quote(&found)
    ))
}

fn push_name(object: &mut ObjectWriter<'_>, namespace: Option<&Value<'_>>, name: &Value<'_>) {
    match namespace {
        None => object.raw("name", name.json()),
        Some(_) => {
            let sent = sent_name(namespace, name);
            object.raw("name", &["\"", &sent, "\""].concat());
        }
    }
}

/// Writes `{"type":"function","function":{"name",…}}`.
fn function(tool: &FunctionTool<'_>, namespace: Option<&Value<'_>>) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("type", "\"function\"");
    let mut function = ObjectWriter::begin(object.name("function"));
    push_name(&mut function, namespace, &tool.name);
    for (name, value) in [
        ("description", &tool.description),
        ("parameters", &tool.parameters),
        ("strict", &tool.strict),
    ] {
        if let Some(value) = value {
            function.raw(name, value.json());
        }
    }
    function.end();
    extras(&mut object, &tool.extra, &["type", "function"])?;
    object.end();
    Ok(out)
}

/// Writes a custom tool as a function with one text argument.
fn custom_as_function(
    tool: &CustomTool<'_>,
    namespace: Option<&Value<'_>>,
) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("type", "\"function\"");
    let mut function = ObjectWriter::begin(object.name("function"));
    push_name(&mut function, namespace, &tool.name);
    if let Some(description) = &tool.description {
        function.raw("description", description.json());
    }
    let about = match &tool.grammar {
        Some((syntax, definition)) => [
            "\"The complete input of the tool, as plain text. It must match this grammar (",
            syntax.inside().unwrap_or_default(),
            "):\\n",
            definition.inside().unwrap_or_default(),
            "\"",
        ]
        .concat(),
        None => "\"The complete input of the tool, as plain text.\"".to_owned(),
    };
    let parameters = [
        r#"{"type":"object","properties":{""#,
        &escape(INPUT),
        r#"":{"type":"string","description":"#,
        &about,
        r#"}},"required":[""#,
        &escape(INPUT),
        r#""],"additionalProperties":false}"#,
    ]
    .concat();
    function.raw("parameters", &parameters);
    function.end();
    extras(&mut object, &tool.extra, &["type", "function"])?;
    object.end();
    Ok(out)
}

/// Writes `{"type":"custom","custom":{"name",…}}`.
fn custom(tool: &CustomTool<'_>, namespace: Option<&Value<'_>>) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("type", "\"custom\"");
    let mut custom = ObjectWriter::begin(object.name("custom"));
    push_name(&mut custom, namespace, &tool.name);
    if let Some(description) = &tool.description {
        custom.raw("description", description.json());
    }
    if let Some((syntax, definition)) = &tool.grammar {
        let mut format = ObjectWriter::begin(custom.name("format"));
        format.raw("type", "\"grammar\"");
        let mut grammar = ObjectWriter::begin(format.name("grammar"));
        grammar.raw("syntax", syntax.json());
        grammar.raw("definition", definition.json());
        grammar.end();
        format.end();
    }
    custom.end();
    extras(&mut object, &tool.extra, &["type", "custom"])?;
    object.end();
    Ok(out)
}
