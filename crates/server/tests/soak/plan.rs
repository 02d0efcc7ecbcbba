//! The answer that a request asks of its upstream, drawn at random, and its possible results.

use std::fmt;

use rand::Rng as _;
use rand::rngs::StdRng;
use tokenwire_simulator::GUIDE;

/// The content, pace and fault of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The id by which the simulator distinguishes requests.
    id: String,
    tokens: u64,
    reasoning: u64,
    /// Bytes per token; 0 is the shortest possible.
    size: usize,
    pace: String,
    /// The fault's name.
    pub(crate) fault: Option<&'static str>,
    details: String,
}

/// Returns the faults of the simulator's own list, so that new ones join the load automatically.
pub(crate) fn faults() -> Vec<&'static str> {
    let list = GUIDE
        .split_once("\nFAULTS\n")
        .unwrap()
        .1
        .split_once("\nEXAMPLES\n")
        .unwrap()
        .0;
    // A fault's line is indented by four spaces, and its description follows two more.
    let lines = list
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter_map(|line| line.split_once("  "));
    lines.flat_map(|(names, _)| names.split(", ")).collect()
}

/// Faults that no client can see.
const HARMLESS: [&str; 9] = [
    "no_done", "split", "crlf", "cr", "nospace", "bom", "comments", "multi", "gzip",
];

/// Statuses of the fault `status`. 401 means that the gateway's own key is refused, which it logs
/// as an ERROR.
const STATUSES: [u16; 9] = [400, 401, 404, 408, 409, 429, 500, 503, 529];

// === impl Plan ===

impl Plan {
    /// Draws an answer that may fail in any way.
    pub(crate) fn draw(dice: &mut StdRng, id: String, faults: &[&'static str]) -> Self {
        let tokens = dice.random_range(1..=40);
        let reasoning = if dice.random_bool(0.2) {
            dice.random_range(1..=5)
        } else {
            0
        };
        // One in twenty is late enough for a hedged request.
        let late = dice.random_bool(0.05);
        let first = if late {
            dice.random_range(300..=800)
        } else {
            dice.random_range(0..=20)
        };
        let between = dice.random_range(0..=4);
        let pace = format!("ttft={first}ms tbt={between}ms jitter={between}ms");
        let fault = dice
            .random_bool(0.5)
            .then(|| faults[dice.random_range(0..faults.len())]);
        // Silent answers hold a slot at the upstream until a timeout. They are drawn less often, or
        // they would dominate the load.
        let fault = fault.filter(|name| !is_silence(name) || dice.random_bool(0.4));
        let mut details = format!(" after={}", dice.random_range(0..=tokens));
        match fault {
            Some("status") => details.push_str(&format!(
                " code={}",
                STATUSES[dice.random_range(0..STATUSES.len())]
            )),
            Some("oversize") => details.push_str(" size=1200KiB"),
            _ => {}
        }
        if fault == Some("status") && dice.random_bool(0.3) {
            details.push_str(" retry_after=1");
        }
        if fault != Some("oversize") && dice.random_bool(0.5) {
            details.push_str(" times=1");
        }
        Self {
            id,
            tokens,
            reasoning,
            size: 0,
            pace,
            fault,
            details,
        }
    }

    /// Draws an answer of large tokens, for a slow reader.
    pub(crate) fn large(dice: &mut StdRng, id: String) -> Self {
        let size = dice.random_range(512..4096);
        Self {
            id,
            tokens: 60,
            reasoning: 0,
            size,
            pace: "tbt=0".to_owned(),
            fault: None,
            details: String::new(),
        }
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns whether only the gateway itself can cause a failure.
    pub(crate) fn is_sound(&self) -> bool {
        self.fault.is_none_or(|name| HARMLESS.contains(&name))
    }

    /// Returns the text of the answer.
    pub(crate) fn text(&self) -> String {
        let token = |number| format!(" t{number}");
        (0..self.tokens)
            .map(token)
            .map(|token| format!("{token:_<size$}", size = self.size))
            .collect()
    }
}

/// Formats the plan as the simulator reads it.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            tokens,
            reasoning,
            size,
            pace,
            fault,
            details,
        } = self;
        write!(f, "id={id} text=count tokens={tokens} {pace}")?;
        if *reasoning > 0 {
            write!(f, " reasoning={reasoning}")?;
        }
        if *size > 0 {
            write!(f, " size={size}")?;
        }
        match fault {
            Some(fault) => write!(f, " fault={fault}{details}"),
            None => Ok(()),
        }
    }
}

fn is_silence(fault: &str) -> bool {
    matches!(fault, "stall" | "stall_head" | "hang")
}
