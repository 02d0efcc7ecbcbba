//! The body of `POST /v1/chat/completions`.

use serde_json::Value;

use super::{
    Conversation, Format, MAX_CHOICES, Tool, ToolChoice, flag, media_type, member, model, seed,
    text, whole, words,
};
use crate::error::ApiError;

/// Refuses messages of tools that no message before them has called.
pub(crate) fn check_tool_messages(body: &Value) -> Result<(), ApiError> {
    let messages = body["messages"].as_array().map_or(&[][..], Vec::as_slice);
    let mut called: Vec<&Value> = Vec::new();
    for (number, message) in messages.iter().enumerate() {
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        called.extend(calls.map(|call| &call["id"]));
        if message["role"] == "tool" && !called.contains(&&message["tool_call_id"]) {
            return Err(ApiError::tool_message_without_call(number));
        }
    }
    Ok(())
}

/// Checks that the reasoning of the calls after the last user message came back with them.
pub(crate) fn check_reasoning(body: &Value) -> Result<(), ApiError> {
    let messages = body["messages"].as_array().map(Vec::as_slice);
    let messages = messages.unwrap_or_default();
    let turn = messages.iter().rev().take_while(|m| m["role"] != "user");
    let names = ["reasoning_content", "reasoning", "reasoning_details"];
    let lacks = |message: &&Value| {
        message["tool_calls"].is_array() && names.iter().all(|name| message[*name].is_null())
    };
    match turn.filter(|m| m["role"] == "assistant").find(lacks) {
        Some(_) => Err(ApiError::reasoning_missing()),
        None => Ok(()),
    }
}

/// Parses and checks a chat completion request.
pub(crate) fn read(body: &Value) -> Result<Conversation, ApiError> {
    let mut conversation = Conversation {
        model: model(body)?,
        stream: flag(body, "stream")?.unwrap_or(false),
        choices: choices(body)?,
        token_limit: whole(body, "max_completion_tokens")?.or(whole(body, "max_tokens")?),
        stops: stops(body)?,
        logprobs: logprobs(body)?,
        seed: seed(body)?,
        parallel_calls: flag(body, "parallel_tool_calls")?.unwrap_or(true),
        reasons: text(body, "reasoning_effort")?.is_some_and(|effort| effort != "none"),
        format: format(body)?,
        tools: tools(body)?,
        ..Conversation::default()
    };
    conversation.tool_choice = tool_choice(body, &conversation.tools)?;
    if let Some(options) = member(body, "stream_options") {
        if !conversation.stream {
            return Err(ApiError::invalid(
                "stream_options",
                "invalid_value",
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            ));
        }
        conversation.include_usage = flag(options, "include_usage")?.unwrap_or(false);
        conversation.obfuscation = flag(options, "include_obfuscation")?.unwrap_or(false);
    }
    messages(body, &mut conversation)?;
    Ok(conversation)
}

fn messages(body: &Value, conversation: &mut Conversation) -> Result<(), ApiError> {
    let value = member(body, "messages").ok_or_else(|| ApiError::missing("messages"))?;
    let messages = value
        .as_array()
        .ok_or_else(|| ApiError::wrong_type("messages", "an array of objects", value))?;
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "messages",
            "empty_array",
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ));
    }
    conversation.messages = messages.len();
    for (index, message) in messages.iter().enumerate() {
        let place = format!("messages[{index}]");
        if !message.is_object() {
            return Err(ApiError::wrong_type(&place, "an object", message));
        }
        let role = message
            .get("role")
            .ok_or_else(|| ApiError::missing(&format!("{place}.role")))?;
        let role = role
            .as_str()
            .ok_or_else(|| ApiError::wrong_type(&format!("{place}.role"), "a string", role))?;
        let mut said = String::new();
        let mut images = Vec::new();
        content(&place, message, &mut said, &mut images)?;
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
            "tool" | "function" => conversation.tool_result = Some(said),
            "system" | "developer" | "assistant" => {}
            _ => {
                return Err(ApiError::invalid(
                    &format!("{place}.role"),
                    "invalid_value",
                    format!(
                        "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn content(
    place: &str,
    message: &Value,
    said: &mut String,
    images: &mut Vec<String>,
) -> Result<(), ApiError> {
    let place = format!("{place}.content");
    match message.get("content") {
        None | Some(Value::Null) if message["role"] == "assistant" => {}
        None | Some(Value::Null) => return Err(ApiError::missing(&place)),
        Some(Value::String(text)) => said.push_str(text),
        Some(Value::Array(parts)) => {
            for (index, part) in parts.iter().enumerate() {
                match part["type"].as_str() {
                    Some("text" | "refusal") => {
                        if !said.is_empty() {
                            said.push('\n');
                        }
                        said.push_str(
                            part["text"]
                                .as_str()
                                .or(part["refusal"].as_str())
                                .unwrap_or_default(),
                        );
                    }
                    Some("image_url") => {
                        let address = part["image_url"]["url"].as_str();
                        images.push(media_type(address.ok_or_else(|| {
                            ApiError::missing(&format!("{place}[{index}].image_url.url"))
                        })?));
                    }
                    Some("input_audio" | "file") => {}
                    Some(other) => {
                        return Err(ApiError::invalid(
                            &format!("{place}[{index}].type"),
                            "invalid_value",
                            format!(
                                "Invalid value: '{other}'. Supported values are: 'text', 'image_url', 'input_audio', 'refusal', and 'file'."
                            ),
                        ));
                    }
                    None => return Err(ApiError::missing(&format!("{place}[{index}].type"))),
                }
            }
        }
        Some(other) => {
            return Err(ApiError::wrong_type(
                &place,
                "a string or an array of objects",
                other,
            ));
        }
    }
    Ok(())
}

fn choices(body: &Value) -> Result<usize, ApiError> {
    match whole(body, "n")? {
        None => Ok(1),
        Some(0) => Err(ApiError::invalid(
            "n",
            "integer_below_min_value",
            "Invalid 'n': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        )),
        Some(n) if n > MAX_CHOICES => Err(ApiError::invalid(
            "n",
            "integer_above_max_value",
            format!(
                "Invalid 'n': integer above maximum value. Expected a value <= {MAX_CHOICES}, but got {n} instead."
            ),
        )),
        Some(n) => Ok(n as usize),
    }
}

fn stops(body: &Value) -> Result<Vec<String>, ApiError> {
    let wrong = |value| ApiError::wrong_type("stop", "a string or an array of strings", value);
    match member(body, "stop") {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop.clone()]),
        Some(Value::Array(stops)) if stops.len() <= 4 => stops
            .iter()
            .map(|stop| stop.as_str().map(str::to_owned).ok_or_else(|| wrong(stop)))
            .collect(),
        Some(Value::Array(stops)) => Err(ApiError::invalid(
            "stop",
            "array_above_max_length",
            format!(
                "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length {} instead.",
                stops.len()
            ),
        )),
        Some(other) => Err(wrong(other)),
    }
}

fn logprobs(body: &Value) -> Result<Option<usize>, ApiError> {
    let wanted = flag(body, "logprobs")?.unwrap_or(false);
    match whole(body, "top_logprobs")? {
        Some(_) if !wanted => Err(ApiError::invalid(
            "top_logprobs",
            "invalid_value",
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
        )),
        Some(top) if top > 20 => Err(ApiError::invalid(
            "top_logprobs",
            "integer_above_max_value",
            format!(
                "Invalid 'top_logprobs': integer above maximum value. Expected a value <= 20, but got {top} instead."
            ),
        )),
        top => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

fn format(body: &Value) -> Result<Format, ApiError> {
    let Some(format) = member(body, "response_format") else {
        return Ok(Format::Text);
    };
    match format["type"].as_str() {
        Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::Json),
        Some("json_schema") => {
            let schema = format
                .get("json_schema")
                .ok_or_else(|| ApiError::missing("response_format.json_schema"))?;
            if schema["name"].as_str().is_none() {
                return Err(ApiError::missing("response_format.json_schema.name"));
            }
            Ok(schema
                .get("schema")
                .map_or(Format::Json, |schema| Format::Schema(schema.clone())))
        }
        Some(other) => Err(ApiError::invalid(
            "response_format.type",
            "invalid_value",
            format!(
                "Invalid value: '{other}'. Supported values are: 'json_object', 'json_schema', and 'text'."
            ),
        )),
        None => Err(ApiError::missing("response_format.type")),
    }
}

fn tools(body: &Value) -> Result<Vec<Tool>, ApiError> {
    let Some(value) = member(body, "tools") else {
        return Ok(Vec::new());
    };
    let tools = value
        .as_array()
        .ok_or_else(|| ApiError::wrong_type("tools", "an array of objects", value))?;
    let mut functions = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        match tool["type"].as_str() {
            Some("function") => {
                let name = tool["function"]["name"].as_str();
                functions.push(Tool {
                    name: name
                        .ok_or_else(|| ApiError::missing(&format!("tools[{index}].function.name")))?
                        .to_owned(),
                    parameters: tool["function"]["parameters"].clone(),
                });
            }
            // Custom tools take any text; the simulator never calls one.
            Some("custom") => {}
            Some(other) => {
                return Err(ApiError::invalid(
                    &format!("tools[{index}].type"),
                    "invalid_value",
                    format!(
                        "Invalid value: '{other}'. Supported values are: 'function' and 'custom'."
                    ),
                ));
            }
            None => return Err(ApiError::missing(&format!("tools[{index}].type"))),
        }
    }
    Ok(functions)
}

fn tool_choice(body: &Value, tools: &[Tool]) -> Result<ToolChoice, ApiError> {
    let Some(choice) = member(body, "tool_choice") else {
        return Ok(ToolChoice::Auto);
    };
    if tools.is_empty() && choice != "none" && choice != "auto" {
        return Err(ApiError::invalid(
            "tool_choice",
            "invalid_value",
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
        ));
    }
    let name = choice["function"]["name"]
        .as_str()
        .or_else(|| choice["allowed_tools"]["tools"][0]["function"]["name"].as_str());
    super::responses::choice_of(choice, name, tools)
}
