//! The body of `POST /v1/responses`.

use serde_json::Value;

use super::{
    Conversation, Format, Tool, ToolChoice, flag, media_type, member, model, seed, text, whole,
    words,
};
use crate::error::ApiError;

/// Parses and checks a Responses request.
pub(crate) fn read(body: &Value) -> Result<Conversation, ApiError> {
    let mut conversation = Conversation {
        model: model(body)?,
        stream: flag(body, "stream")?.unwrap_or(false),
        choices: 1,
        token_limit: whole(body, "max_output_tokens")?,
        seed: seed(body)?,
        parallel_calls: flag(body, "parallel_tool_calls")?.unwrap_or(true),
        format: format(body)?,
        tools: tools(body)?,
        ..Conversation::default()
    };
    if let Some(reasoning) = member(body, "reasoning") {
        conversation.reasons = text(reasoning, "effort")?.is_some_and(|effort| effort != "none");
        conversation.summary = text(reasoning, "summary")?.is_some();
        conversation.reasons |= conversation.summary;
    }
    conversation.tool_choice = match member(body, "tool_choice") {
        None => ToolChoice::Auto,
        Some(choice) => {
            let name = choice["name"]
                .as_str()
                .or_else(|| choice["tools"][0]["name"].as_str());
            choice_of(choice, name, &conversation.tools)?
        }
    };
    if let Some(options) = member(body, "stream_options") {
        conversation.obfuscation = flag(options, "include_obfuscation")?.unwrap_or(false);
    }
    if let Some(instructions) = text(body, "instructions")? {
        conversation.prompt_tokens += words(instructions) + 3;
    }
    input(body, &mut conversation)?;
    Ok(conversation)
}

fn input(body: &Value, conversation: &mut Conversation) -> Result<(), ApiError> {
    match member(body, "input") {
        None if ["previous_response_id", "prompt", "conversation"]
            .iter()
            .any(|name| member(body, name).is_some()) =>
        {
            Ok(())
        }
        None => Err(ApiError::invalid(
            "input",
            "missing_required_parameter",
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
        )),
        Some(Value::String(text)) => {
            conversation.messages = 1;
            conversation.prompt_tokens += words(text) + 3;
            conversation.question.clone_from(text);
            Ok(())
        }
        Some(Value::Array(items)) => {
            conversation.messages = items.len();
            items
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| one_item(index, item, conversation))
        }
        Some(other) => Err(ApiError::wrong_type(
            "input",
            "a string or an array of objects",
            other,
        )),
    }
}

fn one_item(index: usize, item: &Value, conversation: &mut Conversation) -> Result<(), ApiError> {
    let place = format!("input[{index}]");
    if !item.is_object() {
        return Err(ApiError::wrong_type(&place, "an object", item));
    }
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let role = item["role"]
                .as_str()
                .ok_or_else(|| ApiError::missing(&format!("{place}.role")))?;
            let mut said = String::new();
            let mut images = Vec::new();
            match item.get("content") {
                Some(Value::String(text)) => said.push_str(text),
                Some(Value::Array(parts)) => parts
                    .iter()
                    .for_each(|part| one_part(part, &mut said, &mut images)),
                _ => return Err(ApiError::missing(&format!("{place}.content"))),
            }
            conversation.prompt_tokens += words(&said) + 3;
            match role {
                "user" => {
                    let before = std::mem::replace(&mut conversation.question, said);
                    if !before.is_empty() {
                        conversation.earlier_question = Some(before);
                    }
                    conversation.images = images;
                    conversation.tool_result = None;
                }
                "assistant" | "system" | "developer" => {}
                _ => {
                    return Err(ApiError::invalid(
                        &format!("{place}.role"),
                        "invalid_value",
                        format!(
                            "Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', and 'user'."
                        ),
                    ));
                }
            }
        }
        "function_call_output" => {
            let output = &item["output"];
            let said = output
                .as_str()
                .map_or_else(|| output.to_string(), str::to_owned);
            conversation.prompt_tokens += words(&said) + 3;
            conversation.tool_result = Some(said);
        }
        "function_call" => {
            conversation.prompt_tokens += words(item["arguments"].as_str().unwrap_or_default()) + 3
        }
        // Reasoning, references and the items of built-in tools say nothing that the answer depends
        // on.
        _ => {}
    }
    Ok(())
}

fn one_part(part: &Value, said: &mut String, images: &mut Vec<String>) {
    match part["type"].as_str() {
        Some("input_image") => {
            images.push(part["image_url"].as_str().map_or_else(
                || part["file_id"].as_str().unwrap_or("image").to_owned(),
                media_type,
            ));
        }
        Some("input_text" | "output_text" | "text") => {
            if !said.is_empty() {
                said.push('\n');
            }
            said.push_str(part["text"].as_str().unwrap_or_default());
        }
        _ => {}
    }
}

fn format(body: &Value) -> Result<Format, ApiError> {
    let Some(format) = member(body, "text").and_then(|text| member(text, "format")) else {
        return Ok(Format::Text);
    };
    match format["type"].as_str() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => format
            .get("schema")
            .map(|schema| Format::Schema(schema.clone()))
            .ok_or_else(|| ApiError::missing("text.format.schema")),
        Some(other) => Err(ApiError::invalid(
            "text.format.type",
            "invalid_value",
            format!(
                "Invalid value: '{other}'. Supported values are: 'json_object', 'json_schema', and 'text'."
            ),
        )),
        None => Err(ApiError::missing("text.format.type")),
    }
}

fn tools(body: &Value) -> Result<Vec<Tool>, ApiError> {
    let Some(value) = member(body, "tools") else {
        return Ok(Vec::new());
    };
    let tools = value
        .as_array()
        .ok_or_else(|| ApiError::wrong_type("tools", "an array of objects", value))?;
    let functions = tools
        .iter()
        .enumerate()
        .filter(|(_, tool)| tool["type"] == "function");
    functions
        .map(|(index, tool)| {
            let name = tool["name"]
                .as_str()
                .ok_or_else(|| ApiError::missing(&format!("tools[{index}].name")))?;
            Ok(Tool {
                name: name.to_owned(),
                parameters: tool["parameters"].clone(),
            })
        })
        .collect()
}

/// Reads a `tool_choice` whose name, if it has one, stands at `name`.
pub(super) fn choice_of(
    choice: &Value,
    name: Option<&str>,
    tools: &[Tool],
) -> Result<ToolChoice, ApiError> {
    match (choice.as_str(), name) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (None, Some(name)) if tools.iter().any(|tool| tool.name == name) => {
            Ok(ToolChoice::Named(name.to_owned()))
        }
        (None, Some(name)) => Err(ApiError::invalid(
            "tool_choice",
            "invalid_value",
            format!("Tool choice '{name}' not found in 'tools' parameter."),
        )),
        (Some(other), _) => Err(ApiError::invalid(
            "tool_choice",
            "invalid_value",
            format!(
                "Invalid value: '{other}'. Supported values are: 'none', 'auto', and 'required'."
            ),
        )),
        // A built-in tool is chosen: the simulator has none to call.
        (None, None) => Ok(ToolChoice::Auto),
    }
}
