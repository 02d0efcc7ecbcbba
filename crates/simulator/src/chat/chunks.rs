//! A chat completion in chunks.
//!
//! The constant parts of a chunk are built once. A token costs its escaping and two copies.

use serde_json::json;

use super::{FINGERPRINT, id, logprob, usage};
use crate::dice::Dice;
use crate::error::SERVER_ERROR;
use crate::plan::{Choice, Output, Plan};
use crate::transcript::{Beat, Transcript, escape};

/// The chunks of a plan, interleaved where there are several choices.
pub(crate) struct Chunks {
    plan: Plan,
    /// A chunk up to the number of its choice.
    head: Vec<u8>,
    /// A chunk after its choices.
    tail: Vec<u8>,
    /// The position of each choice.
    positions: Vec<Position>,
    /// The choice of the next chunk.
    turn: usize,
    /// Choices that have not finished.
    open: usize,
    after: After,
    /// Chunks produced, for the obfuscation.
    made: u64,
    token: String,
}

/// The position of a choice: its next chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Role,
    Reasoning(u64),
    Content(u64),
    CallHead(usize),
    Argument(usize, u64),
    Finish,
    Over,
}

/// The chunks after all choices have finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Usage,
    Done,
    Nothing,
}

// === impl Chunks ===

impl Chunks {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut head = json!({
            "id": id(&plan),
            "object": "chat.completion.chunk",
            "created": plan.created,
            "model": plan.model,
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        });
        // The members in OpenAI's order, which a JSON map would not keep.
        let mut bytes = b"{".to_vec();
        for name in [
            "id",
            "object",
            "created",
            "model",
            "service_tier",
            "system_fingerprint",
        ] {
            bytes.extend_from_slice(format!("\"{name}\":{},", head[name].take()).as_bytes());
        }
        bytes.extend_from_slice(b"\"choices\":[");
        let tail = if plan.usage {
            b"],\"usage\":null".to_vec()
        } else {
            b"]".to_vec()
        };
        let open = plan.choices.len();
        Self {
            positions: vec![Position::Role; open],
            after: if plan.usage {
                After::Usage
            } else {
                After::Done
            },
            plan,
            head: bytes,
            tail,
            turn: 0,
            open,
            made: 0,
            token: String::new(),
        }
    }

    fn choice(&self) -> &Choice {
        &self.plan.choices[self.turn]
    }

    /// Returns the first position at or after `position` that produces a chunk.
    fn settle(choice: &Choice, position: Position) -> Position {
        match (position, &choice.output) {
            (Position::Reasoning(index), _) if index < choice.reasoning.len() => position,
            (Position::Reasoning(_), Output::Calls(_)) => {
                Self::settle(choice, Position::CallHead(0))
            }
            (Position::Reasoning(_), _) => Self::settle(choice, Position::Content(0)),
            (Position::Content(index), Output::Text(pieces) | Output::Refusal(pieces))
                if index >= pieces.len() =>
            {
                Position::Finish
            }
            (Position::CallHead(call), Output::Calls(calls)) if call >= calls.len() => {
                Position::Finish
            }
            (Position::Argument(call, index), Output::Calls(calls))
                if index >= calls[call].arguments.len() =>
            {
                Self::settle(choice, Position::CallHead(call + 1))
            }
            _ => position,
        }
    }

    /// Returns whether the call is announced together with the role: a single one, without
    /// reasoning.
    fn announces_with_role(choice: &Choice) -> bool {
        choice.reasoning.len() == 0
            && matches!(&choice.output, Output::Calls(calls) if calls.len() == 1)
    }

    /// Moves the choice to `next`, and the turn to the next unfinished choice.
    fn advance(&mut self, next: Position) {
        self.positions[self.turn] = Self::settle(self.choice(), next);
        if next == Position::Over {
            self.open -= 1;
        }
        if self.open > 0 {
            loop {
                self.turn = (self.turn + 1) % self.positions.len();
                if self.positions[self.turn] != Position::Over {
                    break;
                }
            }
        }
    }

    fn begin(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.turn).as_bytes());
        out.extend_from_slice(b",\"delta\":{");
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tail);
        if self.plan.obfuscation {
            let length = 1 + Dice::at(self.plan.identity, self.made) % 12;
            let padding =
                Dice::new(Dice::at(self.plan.identity, self.made)).letters(length as usize);
            out.extend_from_slice(b",\"obfuscation\":\"");
            out.extend_from_slice(padding.as_bytes());
            out.push(b'"');
        }
        self.made += 1;
        out.push(b'}');
    }

    /// Appends a chunk with the delta `{name}"token"{close}`.
    fn token(&mut self, out: &mut Vec<u8>, name: &[u8], close: &[u8]) {
        self.begin(out);
        out.extend_from_slice(name);
        escape(&self.token, out);
        out.extend_from_slice(close);
    }

    fn role(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        let choice = self.choice();
        let mut call_head = None;
        match &choice.output {
            _ if choice.reasoning.len() > 0 => out.extend_from_slice(
                b"\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"\"",
            ),
            Output::Text(_) => {
                out.extend_from_slice(b"\"role\":\"assistant\",\"content\":\"\",\"refusal\":null")
            }
            Output::Refusal(_) => {
                out.extend_from_slice(b"\"role\":\"assistant\",\"content\":null,\"refusal\":\"\"")
            }
            Output::Calls(_) if Self::announces_with_role(choice) => {
                out.extend_from_slice(b"\"role\":\"assistant\",\"content\":null,");
                self.announce(0, out);
                out.extend_from_slice(b",\"refusal\":null");
                call_head = Some(Position::Argument(0, 0));
            }
            Output::Calls(_) => out.extend_from_slice(b"\"role\":\"assistant\",\"content\":null"),
        }
        let logprobs: &[u8] = if self.plan.logprobs.is_some() {
            b"{\"content\":[],\"refusal\":null}"
        } else {
            b"null"
        };
        out.extend_from_slice(b"},\"logprobs\":");
        out.extend_from_slice(logprobs);
        out.extend_from_slice(b",\"finish_reason\":null}");
        self.end(out);
        self.advance(call_head.unwrap_or(Position::Reasoning(0)));
    }

    /// `"tool_calls":[…]` that opens call `index`.
    fn announce(&self, index: usize, out: &mut Vec<u8>) {
        if let Output::Calls(calls) = &self.choice().output {
            let call = &calls[index];
            out.extend_from_slice(b"\"tool_calls\":[{\"index\":");
            out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
            out.extend_from_slice(b",\"id\":");
            escape(&call.id, out);
            out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            escape(&call.name, out);
            out.extend_from_slice(b",\"arguments\":\"\"}}]");
        }
    }

    fn usage(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"],\"usage\":");
        // Serializing numbers into a Vec cannot fail.
        let _ = serde_json::to_writer(&mut *out, &usage(&self.plan));
        self.tail = Vec::new();
        self.end(out);
    }
}

impl Transcript for Chunks {
    fn peek(&self) -> Option<Beat> {
        if self.open == 0 {
            return match self.after {
                After::Usage => Some(Beat::Trail),
                After::Done => Some(Beat::Done),
                After::Nothing => None,
            };
        }
        Some(match self.positions[self.turn] {
            Position::Role | Position::CallHead(_) => Beat::Lead,
            Position::Finish | Position::Over => Beat::Finish,
            Position::Reasoning(_) | Position::Content(_) | Position::Argument(..) => Beat::Token,
        })
    }

    fn name(&self) -> Option<&'static str> {
        None
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        const CLOSE: &[u8] = b"},\"logprobs\":null,\"finish_reason\":null}";
        if self.open == 0 {
            match self.after {
                After::Usage => {
                    self.usage(out);
                    self.after = After::Done;
                }
                After::Done => {
                    out.extend_from_slice(b"[DONE]");
                    self.after = After::Nothing;
                }
                After::Nothing => {}
            }
            return;
        }
        let mut token = std::mem::take(&mut self.token);
        token.clear();
        let position = self.positions[self.turn];
        let choice = self.choice();
        match (position, &choice.output) {
            (Position::Reasoning(index), _) => choice.reasoning.write(index, &mut token),
            (Position::Content(index), Output::Text(pieces) | Output::Refusal(pieces)) => {
                pieces.write(index, &mut token)
            }
            (Position::Argument(call, index), Output::Calls(calls)) => {
                calls[call].arguments.write(index, &mut token)
            }
            _ => {}
        }
        let refuses = matches!(choice.output, Output::Refusal(_));
        self.token = token;
        match position {
            Position::Role => self.role(out),
            Position::Reasoning(index) => {
                self.token(out, b"\"reasoning_content\":", CLOSE);
                self.end(out);
                self.advance(Position::Reasoning(index + 1));
            }
            Position::Content(index) if refuses => {
                self.token(out, b"\"refusal\":", CLOSE);
                self.end(out);
                self.advance(Position::Content(index + 1));
            }
            Position::Content(index) => {
                match self.plan.logprobs {
                    None => self.token(out, b"\"content\":", CLOSE),
                    Some(top) => {
                        let entry = logprob(&self.plan, self.turn, index, &self.token, top);
                        let close = format!(
                            "}},\"logprobs\":{{\"content\":[{entry}],\"refusal\":null}},\"finish_reason\":null}}"
                        );
                        self.token(out, b"\"content\":", close.as_bytes());
                    }
                }
                self.end(out);
                self.advance(Position::Content(index + 1));
            }
            Position::CallHead(call) => {
                self.begin(out);
                self.announce(call, out);
                out.extend_from_slice(CLOSE);
                self.end(out);
                self.advance(Position::Argument(call, 0));
            }
            Position::Argument(call, index) => {
                let name =
                    format!("\"tool_calls\":[{{\"index\":{call},\"function\":{{\"arguments\":");
                self.token(
                    out,
                    name.as_bytes(),
                    b"}}]},\"logprobs\":null,\"finish_reason\":null}",
                );
                self.end(out);
                self.advance(Position::Argument(call, index + 1));
            }
            Position::Finish | Position::Over => {
                self.begin(out);
                out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":");
                escape(&self.choice().finish.clone(), out);
                out.push(b'}');
                self.end(out);
                self.advance(Position::Over);
            }
        }
    }

    fn failure(&mut self) -> Vec<(Option<&'static str>, Vec<u8>)> {
        let error = json!({"error": {"message": SERVER_ERROR, "type": "server_error", "param": null, "code": null}});
        vec![(None, error.to_string().into_bytes())]
    }
}
