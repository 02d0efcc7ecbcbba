//! The response object and the items in it.

use serde_json::{Value, json};

use super::strict;
use crate::dice::Dice;
use crate::error::SERVER_ERROR;
use crate::pieces::Pieces;
use crate::plan::{Output, Plan};

/// The parts of a response: its plan, its items in the order of their opening, and the repeated
/// fields of the request.
pub(crate) struct Outline {
    pub(super) plan: Plan,
    pub(super) items: Vec<Item>,
    echo: Value,
    /// Whether usage is reported.
    usage: bool,
    /// The account that encrypted reasoning is made for, if it is asked for.
    account: Option<String>,
    /// Whether every event has another id of its item, and the number of the event.
    rotates: bool,
    pub(super) turn: u64,
}

/// One output item.
pub(super) struct Item {
    pub(super) id: String,
    pub(super) part: Part,
}

/// The content of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    ReasoningText,
    ReasoningSummary,
    Text,
    Refusal,
    /// The call of this number.
    Call(usize),
}

/// The progress of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Opened,
    Done,
}

/// The progress of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Ended,
    Failed,
}

// === impl Outline ===

impl Outline {
    /// Outlines the first choice of `plan`; the Responses API has only one.
    /// `account` is whom encrypted reasoning is made for.
    pub(crate) fn new(
        plan: Plan,
        request: &Value,
        usage: bool,
        account: &str,
        rotates: bool,
    ) -> Self {
        let account = strict::wants_encrypted(request).then(|| account.to_owned());
        let mut items = Vec::new();
        let mut add = |prefix: &str, part: Part| {
            let id = format!("{prefix}_{}", plan.dice(items.len() as u64 + 1).hex(48));
            items.push(Item { id, part });
        };
        let choice = &plan.choices[0];
        if choice.reasoning.len() > 0 {
            add(
                "rs",
                if plan.summary {
                    Part::ReasoningSummary
                } else {
                    Part::ReasoningText
                },
            );
        }
        // An answer that was cut in its reasoning has no other items.
        let goes_on = choice.output.tokens() > 0 || choice.reasoning.len() == 0;
        match &choice.output {
            Output::Text(_) if goes_on => add("msg", Part::Text),
            Output::Refusal(_) if goes_on => add("msg", Part::Refusal),
            Output::Calls(calls) => (0..calls.len()).for_each(|call| add("fc", Part::Call(call))),
            _ => {}
        }
        Self {
            echo: echo(request),
            items,
            plan,
            usage,
            account,
            rotates,
            turn: 0,
        }
    }

    /// Returns the id of an item in the present event.
    pub(super) fn id(&self, index: usize) -> String {
        let id = &self.items[index].id;
        if self.rotates {
            format!("{id}{:04}", self.turn)
        } else {
            id.clone()
        }
    }

    /// Returns the id of the response.
    pub(crate) fn response_id(&self) -> String {
        let response = self.response(Status::InProgress);
        response["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the full response for a request without `stream`.
    pub(crate) fn whole(&self) -> Value {
        self.response(Status::Ended)
    }

    pub(super) fn pieces(&self, part: Part) -> &Pieces {
        let choice = &self.plan.choices[0];
        match (part, &choice.output) {
            (Part::Text | Part::Refusal, Output::Text(pieces) | Output::Refusal(pieces)) => pieces,
            (Part::Call(call), Output::Calls(calls)) => &calls[call].arguments,
            _ => &choice.reasoning,
        }
    }

    /// Returns the reason of an incomplete answer.
    pub(super) fn incomplete(&self) -> Option<&'static str> {
        match self.plan.choices[0].finish.as_str() {
            "length" => Some("max_output_tokens"),
            "content_filter" => Some("content_filter"),
            _ => None,
        }
    }

    pub(super) fn part(&self, part: Part, stage: Stage) -> Value {
        let text = if stage == Stage::Done {
            self.pieces(part).text()
        } else {
            String::new()
        };
        match part {
            Part::ReasoningText => json!({"type": "reasoning_text", "text": text}),
            Part::ReasoningSummary => json!({"type": "summary_text", "text": text}),
            Part::Refusal => json!({"type": "refusal", "refusal": text}),
            Part::Text | Part::Call(_) => {
                json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
            }
        }
    }

    pub(super) fn item(&self, index: usize, stage: Stage) -> Value {
        let Item { part, .. } = &self.items[index];
        let id = self.id(index);
        let last = index + 1 == self.items.len();
        let status = match stage {
            Stage::Opened => "in_progress",
            Stage::Done if last && self.incomplete().is_some() => "incomplete",
            Stage::Done => "completed",
        };
        let parts = if stage == Stage::Done {
            json!([self.part(*part, stage)])
        } else {
            json!([])
        };
        let mut item = match part {
            Part::ReasoningText => {
                json!({"id": id, "type": "reasoning", "status": status, "summary": [], "content": parts})
            }
            Part::ReasoningSummary => {
                json!({"id": id, "type": "reasoning", "status": status, "summary": parts})
            }
            Part::Text | Part::Refusal => {
                json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": parts})
            }
            Part::Call(call) => {
                let (call_id, name) = match &self.plan.choices[0].output {
                    Output::Calls(calls) => (calls[*call].id.as_str(), calls[*call].name.as_str()),
                    _ => ("", ""),
                };
                let arguments = if stage == Stage::Done {
                    self.pieces(*part).text()
                } else {
                    String::new()
                };
                json!({"id": id, "type": "function_call", "status": status, "arguments": arguments, "call_id": call_id, "name": name})
            }
        };
        if item["type"] == "reasoning"
            && stage == Stage::Done
            && let Some(account) = &self.account
        {
            let id = item["id"].as_str().unwrap_or_default();
            item["encrypted_content"] = Value::String(strict::encrypt(id, account));
        }
        item
    }

    pub(super) fn response(&self, status: Status) -> Value {
        let plan = &self.plan;
        let mut response = self.echo.clone();
        response["id"] = Value::String(format!("resp_{}", Dice::hex(&mut plan.dice(0), 48)));
        response["created_at"] = Value::from(plan.created);
        response["model"] = Value::String(plan.model.clone());
        response["status"] = Value::from("in_progress");
        match status {
            Status::InProgress => {}
            Status::Failed => {
                response["status"] = Value::from("failed");
                response["error"] = json!({"code": "server_error", "message": SERVER_ERROR});
            }
            Status::Ended => {
                response["output"] = (0..self.items.len())
                    .map(|index| self.item(index, Stage::Done))
                    .collect();
                if let Some(reason) = self.incomplete() {
                    response["status"] = Value::from("incomplete");
                    response["incomplete_details"] = json!({"reason": reason});
                } else {
                    response["status"] = Value::from("completed");
                    response["completed_at"] = Value::from(plan.created);
                }
                if self.usage {
                    response["usage"] = json!({
                        "input_tokens": plan.prompt_tokens,
                        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                        "output_tokens": plan.completion_tokens(),
                        "output_tokens_details": {"reasoning_tokens": plan.reasoning_tokens()},
                        "total_tokens": plan.prompt_tokens + plan.completion_tokens(),
                    });
                }
            }
        }
        response
    }
}

/// Returns the fields of the request that a response repeats, with OpenAI's defaults.
fn echo(request: &Value) -> Value {
    let or = |name: &str, default: Value| {
        request
            .get(name)
            .filter(|value| !value.is_null())
            .cloned()
            .unwrap_or(default)
    };
    json!({
        "object": "response",
        "background": false,
        "completed_at": null,
        "error": null,
        "frequency_penalty": or("frequency_penalty", json!(0.0)),
        "incomplete_details": null,
        "instructions": or("instructions", Value::Null),
        "max_output_tokens": or("max_output_tokens", Value::Null),
        "max_tool_calls": or("max_tool_calls", Value::Null),
        "metadata": or("metadata", json!({})),
        "output": [],
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "presence_penalty": or("presence_penalty", json!(0.0)),
        "previous_response_id": or("previous_response_id", Value::Null),
        "prompt_cache_key": or("prompt_cache_key", Value::Null),
        "reasoning": {
            "effort": request["reasoning"]["effort"],
            "summary": request["reasoning"]["summary"],
        },
        "safety_identifier": or("safety_identifier", Value::Null),
        "service_tier": "default",
        "store": or("store", json!(true)),
        "temperature": or("temperature", json!(1.0)),
        "text": {
            "format": request["text"].get("format").cloned().unwrap_or_else(|| json!({"type": "text"})),
            "verbosity": request["text"]["verbosity"].as_str().unwrap_or("medium"),
        },
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": tools(request),
        "top_logprobs": or("top_logprobs", json!(0)),
        "top_p": or("top_p", json!(1.0)),
        "truncation": or("truncation", json!("disabled")),
        "usage": null,
        "user": or("user", Value::Null),
    })
}

/// Returns the tools with the members that the object always has.
fn tools(request: &Value) -> Value {
    let mut tools = request["tools"].as_array().cloned().unwrap_or_default();
    for tool in &mut tools {
        if tool["type"] == "function" && tool["strict"].is_null() {
            tool["strict"] = Value::Bool(true);
        }
    }
    Value::Array(tools)
}
