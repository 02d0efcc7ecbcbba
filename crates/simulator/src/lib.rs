//! An OpenAI-compatible model server without a model.
//!
//! A gateway must be tested against upstreams that are fast, slow, silent, wrong and dead, and each
//! time in the same way. A mock inside the process has no sockets to cut. So the simulator is a
//! server over real HTTP on real sockets, on its own thread and runtime. It is the gateway's
//! upstream when none is configured, and the upstream of the tests and of the benchmarks.
//!
//! * **Steering by request.** The header `x-simulator` or the prompt sets the content, the pace and
//!   the faults of an answer; [`GUIDE`] describes the language. There is no state to set up, so
//!   tests can run in parallel.
//! * **Repeatable.** With a seed, the same request gets the same bytes, including `id` and
//!   `created`. Without a seed, all other bytes are the same.
//! * **Detects aborts.** A peer that closes its connection is counted at once in each phase, also
//!   while nothing is sent: [`Stats::aborted`]. hyper reads while a body is pending, sees the end
//!   of the connection and drops the answer; a guard in the answer counts. (A peer that has
//!   pipelined another request is detected at the next write.)
//! * **Fast.** The constant parts of a chunk are built once, and events that are due together are
//!   written together. A paced stream costs one timer and one small write per token.
//!
//! An answer is *planned* before its first byte: the conversation is read from either API, the plan
//! contains the content, a transcript produces it event by event in the API's dialect, and a player
//! adds pace, framing and faults. [`Stats`] and faults do not depend on the content.
//!
//! Chunks differ from OpenAI's in one default: `obfuscation` is sent only if
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
mod background;
mod body;
mod chat;
mod conversation;
mod dice;
mod error;
mod fault;
mod occasion;
mod options;
mod pieces;
mod plan;
mod player;
mod responses;
mod routes;
mod schema;
mod server;
mod simulator;
mod socket;
mod stats;
mod steering;
mod transcript;
mod whole;

pub use options::{Options, Pace};
pub use simulator::Simulator;
pub use stats::{Outcome, RecordedRequest, Stats};
pub use steering::{GUIDE, parse_duration};
