//! An OpenAI-compatible upstream in a box.
//!
//! A gateway has to be seen against an upstream that is fast, slow, silent, wrong and gone, and
//! every time in the same way. A mock inside the process cannot do that: it has no sockets to cut
//! and no kernel between. So the simulator is a server of its own, over real HTTP on real sockets,
//! on one thread with a runtime of its own, and it does three jobs: it is what the gateway talks to
//! when no upstream is configured, what the tests talk to, and what the benchmarks talk to.
//!
//! * **It is steered by the request.** What an answer is like, how fast it comes and how it fails
//!   is said in the header `x-simulator` or in the prompt; [`GUIDE`] is the language. No state has
//!   to be set up before, so tests can run side by side.
//! * **It repeats itself.** With a seed the same request gets the same bytes, `id` and `created`
//!   included; without one all but these.
//! * **It notices.** A peer that leaves is counted at once, in every phase, silence included:
//!   [`Stats::aborted`]. hyper reads while a body is pending, sees the end of the connection and
//!   drops the answer; a guard in it does the counting. (A peer that has sent another request
//!   ahead, which HTTP clients do not do, is only noticed at the next write.)
//! * **It is never the bottleneck.** What is the same in every chunk is made once, and where
//!   nothing has to wait many events go out in one write. A paced stream costs one timer and one
//!   small write a token.
//!
//! An answer is *planned* before its first byte ([`Stats`] and faults know nothing of its words):
//! the conversation is read from either API, the plan says what the answer holds, a transcript
//! spells it event by event in the API's dialect, and a player gives it pace, framing and faults.
//!
//! Chunks differ from OpenAI's in one default: `obfuscation` is sent only when
//! `stream_options.include_obfuscation` is true, so that the bytes of a benchmark are those of its
//! tokens.
//!
//! ```
//! use std::io::{Read, Write};
//! use tokenwire_simulator::{Options, Simulator};
//!
//! let simulator = Simulator::start(Options::default())?;
//! let body = r#"{"model":"simulator","stream":true,"messages":[{"role":"user","content":"[[tokens=2 text=count]]"}]}"#;
//! let mut socket = std::net::TcpStream::connect(simulator.addr())?;
//! write!(socket, "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
//! let mut answer = String::new();
//! socket.read_to_string(&mut answer)?;
//! assert!(answer.contains(r#""delta":{"content":" t1"}"#));
//! assert!(answer.contains("data: [DONE]"));
//! # Ok::<(), std::io::Error>(())
//! ```

mod answer;
mod body;
mod chat;
mod connection;
mod conversation;
mod dice;
mod error;
mod fault;
mod options;
mod pieces;
mod plan;
mod player;
mod responses;
mod routes;
mod schema;
mod server;
mod simulator;
mod stats;
mod steering;
mod transcript;
mod whole;

pub use options::{Options, Pace};
pub use simulator::Simulator;
pub use stats::{Outcome, RecordedRequest, Stats};
pub use steering::{GUIDE, parse_duration};
