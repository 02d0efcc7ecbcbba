//! Steering of a request: a list of `key=value` in the header `x-simulator`, or between double
//! brackets in the last user message.
//!
//! [`GUIDE`] describes the language; the binary prints it as its help.

use std::time::Duration;

use crate::fault::{Fault, FaultKind};

/// The parsed steering. Fields that are `None` follow from the request itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Steering {
    pub(crate) tokens: Option<u64>,
    pub(crate) first_token: Option<Duration>,
    pub(crate) between_tokens: Option<Duration>,
    pub(crate) jitter: Option<Duration>,
    pub(crate) head: Option<Duration>,
    pub(crate) seed: Option<u64>,
    pub(crate) size: Option<usize>,
    pub(crate) text: Option<Wording>,
    pub(crate) reasoning: Option<u64>,
    pub(crate) calls: Option<usize>,
    pub(crate) tool: Option<String>,
    /// The arguments of each call, a JSON object.
    pub(crate) arguments: Option<String>,
    pub(crate) refusal: bool,
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<bool>,
    pub(crate) fault: Option<FaultKind>,
    pub(crate) after: Option<u64>,
    pub(crate) code: Option<u16>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) times: Option<u64>,
    pub(crate) id: Option<String>,
    pub(crate) encrypted: Option<Encrypted>,
    pub(crate) reasoning_back: bool,
    pub(crate) rotate: bool,
    pub(crate) again: Option<Again>,
    pub(crate) window: Option<Duration>,
}

/// What is wrong with a background response that is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// The first reads are cut, each a few tokens later than the one before.
    Cut,
    /// The text is another one.
    Other,
    /// It is not known any more.
    Gone,
    /// The head comes late.
    Slow,
    /// The first reads are refused with 503.
    Busy,
}

/// How encrypted reasoning is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encrypted {
    /// None that is sent is taken.
    Refuse,
    /// It may not be asked for.
    Unsupported,
}

/// The form of generated tokens. Each contains its number, so lost and doubled ones are visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wording {
    /// A word drawn from the seed and the number: `" river17"`.
    Words,
    /// Token `i` is exactly `" t{i}"`.
    Count,
}

/// An invalid list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SteeringError {
    #[error("unknown steering key `{0}`; the keys are {KEYS}")]
    UnknownKey(String),
    #[error("steering key `{key}` has the value `{value}`, expected {expected}")]
    BadValue {
        key: String,
        value: String,
        expected: String,
    },
}

/// The keys, for error messages.
const KEYS: &str = "tokens, ttft, tbt, jitter, head, seed, size, text, reasoning, calls, tool, arguments, refusal, finish, usage, fault, after, code, retry_after, times, id, encrypted, reasoning_back, ids, again, window";

/// The most tokens of one answer.
const MAX_TOKENS: u64 = 1_000_000_000;
/// The largest token, and the largest event of the fault `oversize`, in bytes.
const MAX_SIZE: u64 = 64 * 1024 * 1024;
/// The most parallel calls.
const MAX_CALLS: u64 = 128;
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// The steering language, for people.
pub const GUIDE: &str = "\
STEERING
  Each request may steer its own answer, with the header
      x-simulator: tokens=200,ttft=50ms,tbt=20ms
  or with the same list, by spaces or commas, in the last user message:
      Tell me a story [[tokens=200 ttft=50ms tbt=20ms]]
  Where both speak of one key the header wins. A steered request does not wait unless it is told to.

  tokens=N       an answer of N generated tokens, each with its number: \" river0 amber1 …\"
  text=count     token i is exactly \" t{i}\" (text=words: a word and the number)
  size=BYTES     pad every token to that many bytes (of the fault oversize: the event's size)
  head=TIME      time before the response head
  ttft=TIME      time to the first token, from the request on
  tbt=TIME       time between tokens; 0 is as fast as the socket takes them
  jitter=TIME    each token up to that much (at most half of tbt) earlier or later, drawn from the seed
  seed=N         what words, pauses, ids and `created` are drawn from: the same seed, the same bytes
  reasoning=N    N tokens of reasoning before the answer (0: none)
  calls=N        N tool calls at once (0: none although tools are offered)
  tool=NAME      call the offered tool of that name, not the first one
  arguments=JSON the arguments of each call, a percent-encoded object: %7B%22city%22:%22Oslo%22%7D
  refusal        refuse instead of answering
  finish=REASON  end with this finish_reason, whatever it is
  usage=on|off   report usage, asked for or not; or never
  fault=NAME     fail in one of the ways below
  after=N        … after N tokens (default 3)
  times=K id=X   … but only the first K requests that carry the same X
  code=N retry_after=SECONDS   for fault=status
  encrypted=refuse        400 to a Responses request with encrypted reasoning (unsupported: if asked for)
  reasoning_back=required 400 to a chat request that lacks the reasoning of its tool calls
  ids=rotate     another id of each Responses item in every event
  again=FAULT    a background response that is read again is cut four times (each some tokens later), has
                 another text (other), is gone, comes a second late (slow), or is refused twice (busy)
  window=TIME    how long after its request a background response can be read (default 5m)

  TIME is 50ms, 1.5s, 200us, 0; BYTES is 512, 64KiB, 20MiB.

FAULTS
  before the head
    status       an HTTP error (code=503 unless said), with Retry-After if asked for
    refuse       the connection is closed without a byte of an answer
    stall_head   no answer, ever
    json_error   status 200, and an error as JSON
    html         status 502, and a page as from a proxy
  after N tokens
    stall        silence until the peer leaves
    cut          the connection is closed in the middle of the body
    reset        the same, with a TCP reset
    end          an orderly end, without finish_reason and [DONE]
    error        an error object as an event, then the end
    malformed    an event that is broken JSON
    bad_utf8     an event that is not UTF-8
    oversize     one event of size=BYTES (default 20MiB)
  at the end
    no_done      finish_reason, but no [DONE]
    hang         finish_reason, no [DONE], then silence
  in the framing, all the way through
    split        every byte in a write of its own
    crlf, cr     other ends of lines
    nospace      data:{…}
    bom          a byte order mark first
    comments     comments and blank lines between events
    multi        the JSON of an event spread over several data: lines
    gzip         a gzip body without Accept-Encoding, flushed at each event

EXAMPLES
  curl -N $BASE/chat/completions -H 'x-simulator: tokens=5,text=count' \\
       -d '{\"model\":\"simulator\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'
  … -H 'x-simulator: tokens=100,tbt=20ms,fault=cut,after=10'    cut after ten tokens
  … -H 'x-simulator: fault=status,code=429,retry_after=1,times=2,id=a'    two 429s, then an answer
  … -H 'x-simulator: ttft=1h'    a head, then silence: leave, and see `aborted` in /stats
";

// === impl Steering ===

impl Steering {
    /// Returns the steering of the header and the last user message together.
    pub(crate) fn of(header: Option<&str>, prompt: &str) -> Result<Self, SteeringError> {
        let mut steering = Self::default();
        if let Some(list) = inside_prompt(prompt) {
            steering.read(list)?;
        }
        if let Some(list) = header {
            steering.read(list)?;
        }
        Ok(steering)
    }

    /// Returns whether any key was given.
    pub(crate) fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// Returns the fault with its parameters.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.map(|kind| Fault {
            kind,
            after: self.after.unwrap_or(3),
            code: self.code.unwrap_or(503),
            retry_after: self.retry_after,
            size: self.size.unwrap_or(20 * 1024 * 1024),
        })
    }

    fn read(&mut self, list: &str) -> Result<(), SteeringError> {
        for item in list
            .split([',', ' ', '\t', '\n', '\r'])
            .filter(|item| !item.is_empty())
        {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), SteeringError> {
        let bad = |expected: &str| SteeringError::BadValue {
            key: key.to_owned(),
            value: shorten(value),
            expected: expected.to_owned(),
        };
        let number = |max: u64| match value.replace('_', "").parse::<u64>() {
            Ok(number) if number <= max => Ok(number),
            _ => Err(bad(&format!("a whole number from 0 to {max}"))),
        };
        let time = || {
            parse_duration(value)
                .filter(|time| *time <= MAX_PAUSE)
                .ok_or_else(|| bad("a time like 50ms, 1.5s or 0, at most 24h"))
        };
        match key {
            "tokens" => self.tokens = Some(number(MAX_TOKENS)?),
            "ttft" => self.first_token = Some(time()?),
            "tbt" => self.between_tokens = Some(time()?),
            "jitter" => self.jitter = Some(time()?),
            "head" => self.head = Some(time()?),
            "seed" => self.seed = Some(number(u64::MAX)?),
            "size" => {
                let size = parse_size(value).filter(|size| *size <= MAX_SIZE);
                self.size = Some(
                    size.ok_or_else(|| bad("a size like 512, 64KiB or 20MiB, at most 64MiB"))?
                        as usize,
                );
            }
            "text" => {
                self.text = Some(match value {
                    "count" => Wording::Count,
                    "words" => Wording::Words,
                    _ => return Err(bad("`count` or `words`")),
                });
            }
            "reasoning" => self.reasoning = Some(number(MAX_TOKENS)?),
            "calls" => self.calls = Some(number(MAX_CALLS)? as usize),
            "tool" => self.tool = Some(shorten(value)),
            "arguments" => {
                let object = percent_decoded(value)
                    .filter(|text| serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok());
                self.arguments = Some(object.ok_or_else(|| bad("a JSON object, percent-encoded"))?);
            }
            "refusal" => {
                self.refusal = on_or_off(value).ok_or_else(|| bad("`on`, `off` or nothing"))?
            }
            "finish" => self.finish = Some(value.to_owned()),
            "usage" => self.usage = Some(on_or_off(value).ok_or_else(|| bad("`on` or `off`"))?),
            "fault" => {
                self.fault =
                    match value {
                        "none" => None,
                        name => Some(FaultKind::named(name).ok_or_else(|| {
                            bad(&format!("`none` or one of {}", FaultKind::names()))
                        })?),
                    };
            }
            "after" => self.after = Some(number(MAX_TOKENS)?),
            "code" => match number(599)? {
                code @ 200..=599 => self.code = Some(code as u16),
                _ => return Err(bad("a status from 200 to 599")),
            },
            "retry_after" => self.retry_after = Some(number(86_400)?),
            "times" => self.times = Some(number(1_000_000)?),
            "id" => self.id = Some(shorten(value)),
            "encrypted" => {
                self.encrypted = Some(match value {
                    "refuse" => Encrypted::Refuse,
                    "unsupported" => Encrypted::Unsupported,
                    _ => return Err(bad("`refuse` or `unsupported`")),
                });
            }
            "reasoning_back" => match value {
                "required" => self.reasoning_back = true,
                _ => return Err(bad("`required`")),
            },
            "ids" => match value {
                "rotate" => self.rotate = true,
                _ => return Err(bad("`rotate`")),
            },
            "again" => {
                self.again = Some(match value {
                    "cut" => Again::Cut,
                    "other" => Again::Other,
                    "gone" => Again::Gone,
                    "slow" => Again::Slow,
                    "busy" => Again::Busy,
                    _ => return Err(bad("`cut`, `other`, `gone`, `slow` or `busy`")),
                });
            }
            "window" => self.window = Some(time()?),
            _ => return Err(SteeringError::UnknownKey(shorten(key))),
        }
        Ok(())
    }
}

/// Returns the first `[[…]]` that begins with a key. Other brackets are part of the user's text.
fn inside_prompt(prompt: &str) -> Option<&str> {
    prompt.match_indices("[[").find_map(|(start, _)| {
        let inside = &prompt[start + 2..];
        let inside = &inside[..inside.find("]]")?];
        let first = inside
            .split([',', ' ', '\t', '\n', '\r'])
            .find(|word| !word.is_empty())?;
        let key = first.split_once('=').map_or(first, |(key, _)| key);
        KEYS.split(", ").any(|known| known == key).then_some(inside)
    })
}

fn on_or_off(value: &str) -> Option<bool> {
    match value {
        "" | "on" | "true" | "1" => Some(true),
        "off" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// Returns the text in which each `%XX` is that byte, if it is UTF-8.
fn percent_decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Shortens a value that error messages quote.
fn shorten(value: &str) -> String {
    value.chars().take(64).collect()
}

/// The longest duration, a year. Schedules add durations to the present.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Parses a duration such as `50ms`, `1.5s`, `200us`, `2m`, `1h` or `0`. At most a year.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "" if number == 0.0 => 0.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| *duration <= LONGEST)
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1,
        "KiB" | "k" | "K" => 1024,
        "MiB" | "m" | "M" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steered(change: impl FnOnce(&mut Steering)) -> Steering {
        let mut steering = Steering::default();
        change(&mut steering);
        steering
    }

    #[test]
    fn each_key_is_parsed() {
        let ms = Duration::from_millis;
        let table: Vec<(&str, Steering)> = vec![
            ("", Steering::default()),
            ("tokens=200", steered(|s| s.tokens = Some(200))),
            ("tokens=1_000", steered(|s| s.tokens = Some(1000))),
            (
                "ttft=50ms,tbt=20ms",
                steered(|s| (s.first_token, s.between_tokens) = (Some(ms(50)), Some(ms(20)))),
            ),
            (
                "ttft=1.5s tbt=0",
                steered(|s| {
                    (s.first_token, s.between_tokens) = (Some(ms(1500)), Some(Duration::ZERO))
                }),
            ),
            (
                "jitter=500us",
                steered(|s| s.jitter = Some(Duration::from_micros(500))),
            ),
            (
                "head=2m, seed=18446744073709551615",
                steered(|s| (s.head, s.seed) = (Some(ms(120_000)), Some(u64::MAX))),
            ),
            ("size=64KiB", steered(|s| s.size = Some(65_536))),
            ("text=count", steered(|s| s.text = Some(Wording::Count))),
            (
                "reasoning=5,calls=2",
                steered(|s| (s.reasoning, s.calls) = (Some(5), Some(2))),
            ),
            (
                "tool=shell arguments=%7B%22cmd%22:%22ls%20-l%22%7D",
                steered(|s| {
                    s.tool = Some("shell".into());
                    s.arguments = Some(r#"{"cmd":"ls -l"}"#.into());
                }),
            ),
            ("refusal", steered(|s| s.refusal = true)),
            ("refusal=off", Steering::default()),
            (
                "finish=eos_token",
                steered(|s| s.finish = Some("eos_token".into())),
            ),
            ("finish=", steered(|s| s.finish = Some(String::new()))),
            ("usage=off", steered(|s| s.usage = Some(false))),
            (
                "fault=cut after=10",
                steered(|s| (s.fault, s.after) = (Some(FaultKind::Cut), Some(10))),
            ),
            ("fault=none", Steering::default()),
            (
                "code=429,retry_after=2",
                steered(|s| (s.code, s.retry_after) = (Some(429), Some(2))),
            ),
            (
                "times=2,id=a",
                steered(|s| (s.times, s.id) = (Some(2), Some("a".into()))),
            ),
        ];
        for (list, expected) in table {
            assert_eq!(
                Steering::of(Some(list), ""),
                Ok(expected.clone()),
                "header {list}"
            );
            assert_eq!(
                Steering::of(None, &format!("hello [[{list}]] there")),
                Ok(expected),
                "prompt {list}"
            );
        }
    }

    #[test]
    fn errors_name_key_and_expectation() {
        let table = [
            ("token=5", "unknown steering key `token`"),
            (
                "tokens=many",
                "`tokens` has the value `many`, expected a whole number",
            ),
            (
                "tokens=9999999999",
                "expected a whole number from 0 to 1000000000",
            ),
            ("tokens=-1", "expected a whole number"),
            ("ttft=50", "expected a time like 50ms"),
            ("ttft=25h", "at most 24h"),
            ("size=1GiB", "expected a size"),
            ("size=65MiB", "at most 64MiB"),
            ("arguments=%7B", "expected a JSON object"),
            ("arguments=%7", "expected a JSON object"),
            ("text=prose", "expected `count` or `words`"),
            ("fault=boom", "expected `none` or one of status, refuse"),
            ("code=99", "expected a status from 200 to 599"),
            ("usage=maybe", "expected `on` or `off`"),
        ];
        for (list, message) in table {
            let error = Steering::of(Some(list), "").unwrap_err().to_string();
            assert!(error.contains(message), "{list}: {error}");
        }
    }

    #[test]
    fn header_overrides_prompt_per_key() {
        let steering = Steering::of(Some("tokens=7"), "hi [[tokens=5 seed=3]]").unwrap();
        assert_eq!((steering.tokens, steering.seed), (Some(7), Some(3)));
    }

    #[test]
    fn other_brackets_are_text() {
        for prompt in [
            "see [[Wikipedia]]",
            "[[ ]]",
            "[[tokens=5",
            "a[[0]]",
            "[[x=1]]",
        ] {
            assert_eq!(
                Steering::of(None, prompt),
                Ok(Steering::default()),
                "{prompt}"
            );
        }
        assert_eq!(
            Steering::of(None, "[[Wiki]] and [[tokens=5]]")
                .unwrap()
                .tokens,
            Some(5)
        );
    }

    #[test]
    fn guide_names_each_key_and_fault() {
        for name in KEYS.split(", ").chain(FaultKind::names().split(", ")) {
            assert!(GUIDE.contains(name), "{name} is missing in the guide");
        }
    }
}
