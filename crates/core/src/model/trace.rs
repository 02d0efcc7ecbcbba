//! The trace that a request belongs to: the W3C recommendation *Trace Context*, level 1, whose version
//! is `00`.
//!
//! ```text
//!   traceparent: 00-<32 hex digits: trace>-<16 hex digits: span of the sender>-<2 hex digits: flags>
//! ```

use std::fmt;
use std::sync::Arc;

use rand::RngCore as _;

use super::id::GenerationId;

/// The header that names the trace and the sender's span.
pub const TRACEPARENT: &str = "traceparent";

/// The header with what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 1;

/// Most members of a `tracestate`.
const MAX_MEMBERS: usize = 32;

/// Bytes of a `tracestate` that are passed on.
const MAX_STATE: usize = 512;

/// Members that are longer are dropped first.
const LONG_MEMBER: usize = 128;

/// Names a trace: 16 bytes, not all zero. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// Names a span of a trace: 8 bytes, not all zero. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The span of the sender.
    pub span: SpanId,
    /// Whether the sender records the trace.
    pub sampled: bool,
}

/// A span and where it is in its trace.
#[derive(Clone, Debug)]
pub struct TraceContext {
    /// The id of the client's request.
    pub request: Arc<str>,
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// Whether the trace is recorded.
    pub sampled: bool,
    /// The client's `tracestate`, within bounds.
    pub state: Option<Arc<str>>,
    /// Whether upstreams get a `traceparent`.
    pub forwarded: bool,
    /// The generation that the span is about.
    pub generation: Option<GenerationId>,
}

// === impl TraceId ===

impl TraceId {
    /// Returns a new random id.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        // All zeros is not valid. The chance is 2^-128, and the id stays one.
        bytes[15] |= u8::from(bytes == [0; 16]);
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns a number that decides whether a trace is among a ratio of all: its last seven bytes,
    /// which are random also where a sender keeps only that part random.
    #[must_use]
    pub fn randomness(&self) -> u64 {
        let [.., a, b, c, d, e, f, g] = self.0;
        u64::from_be_bytes([0, a, b, c, d, e, f, g])
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl SpanId ===

impl SpanId {
    /// Returns a new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::rng().next_u64().max(1).to_be_bytes())
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl TraceParent ===

impl TraceParent {
    /// Reads the value of a `traceparent` header. Returns `None` for one that is not valid, which
    /// counts as none at all. Of a later version the fields of `00` are read.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let bytes = value.as_bytes();
        let (head, rest) = bytes.split_at_checked(55)?;
        let version = digits::<1>(head.get(..2)?)?;
        let [version] = version;
        if version == 0xff || (version == 0 && !rest.is_empty()) {
            return None;
        }
        if rest.first().is_some_and(|next| *next != b'-') {
            return None;
        }
        let dashes = [2, 35, 52];
        if dashes.iter().any(|at| head.get(*at) != Some(&b'-')) {
            return None;
        }
        let trace = digits(head.get(3..35)?)?;
        let span = digits(head.get(36..52)?)?;
        let [flags] = digits::<1>(head.get(53..55)?)?;
        if trace == [0; 16] || span == [0; 8] {
            return None;
        }
        Some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            sampled: flags & SAMPLED != 0,
        })
    }
}

impl fmt::Display for TraceParent {
    /// Writes the value of the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

/// Reads lower-case hexadecimal digits.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, _) = text.as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    (pairs.len() == N).then_some(bytes)
}

/// Returns what is passed on of these `tracestate` headers, in their order: at most 32 members and 512
/// bytes. Returns `None` where nothing is, also for a member that is not valid: the others count for
/// nothing then.
#[must_use]
pub fn trace_state<'a>(headers: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut members: Vec<&str> = headers
        .flat_map(|value| value.split(','))
        .map(|member| member.trim_matches([' ', '\t']))
        .filter(|member| !member.is_empty())
        .take(MAX_MEMBERS + 1)
        .collect();
    if members.len() > MAX_MEMBERS || !members.iter().all(|member| is_member(member)) {
        return None;
    }
    let length = |members: &[&str]| {
        let commas = members.len().saturating_sub(1);
        members.iter().map(|member| member.len()).sum::<usize>() + commas
    };
    if length(&members) > MAX_STATE {
        members.retain(|member| member.len() <= LONG_MEMBER);
    }
    while length(&members) > MAX_STATE {
        members.pop();
    }
    (!members.is_empty()).then(|| members.join(","))
}

/// Whether this is a member of a `tracestate`: `key=value`.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let is_lower = |byte: u8| byte.is_ascii_lowercase();
    let is_key_byte = |byte: u8| is_lower(byte) || byte.is_ascii_digit() || b"_-*/".contains(&byte);
    let is_simple = |key: &str, digit_first: bool, most: usize| {
        let first = key.bytes().next();
        let is_first = first.is_some_and(|b| is_lower(b) || (digit_first && b.is_ascii_digit()));
        is_first && key.len() <= most && key.bytes().all(is_key_byte)
    };
    let is_key = match key.split_once('@') {
        None => is_simple(key, false, 256),
        Some((tenant, system)) => is_simple(tenant, true, 241) && is_simple(system, false, 14),
    };
    let is_value_byte = |byte: u8| matches!(byte, 0x20..=0x7e) && !b",=".contains(&byte);
    is_key && (1..=256).contains(&value.len()) && value.bytes().all(is_value_byte)
}

// === impl TraceContext ===

impl TraceContext {
    /// Returns a new span that is part of this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span: SpanId::random(),
            parent: Some(self.span),
            ..self.clone()
        }
    }

    /// Returns the `traceparent` of a request that is sent in this span.
    #[must_use]
    pub fn header(&self) -> TraceParent {
        TraceParent {
            trace: self.trace,
            span: self.span,
            sampled: self.sampled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn valid_traceparent_is_read_and_written_back() {
        let parent = TraceParent::parse(VALID).unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), VALID);
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        let unsampled = VALID.replace("-01", "-00");
        assert!(!TraceParent::parse(&unsampled).unwrap().sampled);
        // Unknown flags are not passed on.
        let more = TraceParent::parse(&VALID.replace("-01", "-ff")).unwrap();
        assert_eq!(more.to_string(), VALID);
        // A later version may have more fields.
        let later = VALID.replacen("00-", "cc-", 1);
        assert_eq!(TraceParent::parse(&later), Some(parent));
        assert_eq!(TraceParent::parse(&format!("{later}-what")), Some(parent));
    }

    #[test]
    fn invalid_traceparents_count_as_none() {
        for value in [
            "",
            "00",
            "00-1",
            &VALID[..54],
            &format!("{VALID}-"),
            &format!("{VALID}0"),
            &format!("{VALID}-00"),
            &VALID.to_uppercase(),
            &VALID.replacen("00-", "ff-", 1),
            &VALID.replacen("00-", "0x-", 1),
            &VALID.replacen("00-", "cc-", 1).replace("-01", "-01x"),
            &VALID.replace('-', "_"),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace("b7", "ä"),
            &VALID.replace("-01", "-0g"),
            &format!(" {VALID}"),
        ] {
            assert_eq!(TraceParent::parse(value), None, "{value:?}");
        }
    }

    #[test]
    fn tracestate_is_passed_on_within_its_bounds() {
        let state = |headers: &[&str]| trace_state(headers.iter().copied());
        assert_eq!(state(&[]), None);
        assert_eq!(state(&["", " , "]), None);
        assert_eq!(
            state(&["congo=t61rcWkgMzE , rojo=00f067", "t-1*/@sys=a b"]).as_deref(),
            Some("congo=t61rcWkgMzE,rojo=00f067,t-1*/@sys=a b")
        );
        for wrong in [
            "A=1", "a", "a=", "=1", "1a=1", "a=b=c", "a=\u{e4}", "a@=1", "a@1=1",
        ] {
            assert_eq!(state(&["ok=1", wrong]), None, "{wrong}");
        }
        let many = vec!["a=1"; MAX_MEMBERS];
        assert_eq!(state(&many).unwrap().len(), 4 * MAX_MEMBERS - 1);
        assert_eq!(state(&vec!["a=1"; MAX_MEMBERS + 1]), None);
        // The long members go first, then those at the end.
        let long = format!("long={}", "x".repeat(200));
        let short = |name: &str| format!("{name}={}", "x".repeat(100));
        let parts = [short("a"), long.clone(), short("b"), long, short("c")];
        let kept = [short("a"), short("b"), short("c")].join(",");
        assert_eq!(state(&[&parts.join(",")]), Some(kept));
        let parts: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(short).into();
        assert_eq!(
            state(&[&parts.join(",")]),
            Some(parts[..4].join(",")[..].into())
        );
    }

    #[test]
    fn random_ids_differ_and_are_valid() {
        let context = TraceContext {
            request: "req_1".into(),
            trace: TraceId::random(),
            span: SpanId::random(),
            parent: None,
            sampled: true,
            state: None,
            forwarded: true,
            generation: None,
        };
        let child = context.child();
        assert_eq!(
            (child.trace, child.parent),
            (context.trace, Some(context.span))
        );
        assert_ne!(child.span, context.span);
        let header = child.header();
        assert_eq!(TraceParent::parse(&header.to_string()), Some(header));
        assert_ne!(TraceId::random(), TraceId::random());
    }
}
