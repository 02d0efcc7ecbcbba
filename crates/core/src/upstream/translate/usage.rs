//! Translates usage between chat and Responses, and sums it up if a server sends it per choice.

use serde::Serialize;
use serde_json::value::RawValue;

use super::plain_usage::{self, PlainUsage};
use crate::model::json::Members;
use crate::model::usage::TokenUsage;

/// The usage of a stream, with the details that both APIs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    reasoning: Option<u64>,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u64,
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

#[derive(Serialize)]
struct ChatUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: InputDetails,
    completion_tokens_details: OutputDetails,
}

// Spellings of each figure, in lower case and without underscores. The first one present counts.
const INPUT: &[&str] = &[
    "prompttokens",
    "inputtokens",
    "prompttokencount",
    "inputtokencount",
    "promptevalcount",
    "numprompttokens",
    "tokensprompt",
    "tokensinput",
];
const OUTPUT: &[&str] = &[
    "completiontokens",
    "outputtokens",
    "candidatestokencount",
    "completiontokencount",
    "outputtokencount",
    "generatedtokens",
    "evalcount",
    "numcompletiontokens",
    "tokenscompletion",
    "tokensoutput",
];
const TOTAL: &[&str] = &["totaltokens", "totaltokencount", "tokenstotal"];
/// Members that hold all figures (Cohere).
const NESTED: &[&str] = &["tokens", "billedunits"];
const INPUT_DETAILS: &[&str] = &[
    "prompttokensdetails",
    "inputtokensdetails",
    "prompttokendetails",
    "inputtokendetails",
];
const OUTPUT_DETAILS: &[&str] = &[
    "completiontokensdetails",
    "outputtokensdetails",
    "completiontokendetails",
    "outputtokendetails",
];
const CACHED_DETAIL: &[&str] = &["cachedtokens", "cacheread", "cachereadtokens"];
const CACHED: &[&str] = &[
    "cachedtokens",
    "prompttokenscached",
    "cachedprompttokens",
    "cachedinputtokens",
    "prompttokenscachehit",
    "promptcachehittokens",
    "cachereadinputtokens",
    "cachedcontenttokencount",
    "numcachedtokens",
];
const REASONING: &[&str] = &[
    "reasoningtokens",
    "reasoningoutputtokens",
    "thinkingtokens",
    "thoughtstokencount",
    "reasoningtokencount",
    "reasoning",
];

impl From<PlainUsage> for Usage {
    fn from(plain: PlainUsage) -> Self {
        Self {
            input: Some(plain.input),
            output: Some(plain.output),
            total: Some(plain.total),
            cached: plain.cached,
            reasoning: plain.reasoning,
        }
    }
}

/// The members of a usage object.
struct Figures<'a>(Members<'a>);

/// Whether this is how a name is written in lower case and without underscores.
fn is_spelled(name: &str, spelling: &str) -> bool {
    let significant = name.bytes().filter(u8::is_ascii_alphanumeric);
    let folded = significant.map(|byte| byte.to_ascii_lowercase());
    folded.eq(spelling.bytes())
}

impl<'a> Figures<'a> {
    fn read(raw: &'a RawValue) -> Self {
        Self(serde_json::from_str(raw.get()).unwrap_or_default())
    }

    fn find(&self, spellings: &[&str]) -> impl Iterator<Item = &'a RawValue> {
        spellings.iter().filter_map(|spelling| {
            let mut members = self.0.iter().rev();
            let found = members.find(|(name, _)| is_spelled(name, spelling));
            found.map(|(_, raw)| raw)
        })
    }

    fn number(&self, spellings: &[&str]) -> Option<u64> {
        self.find(spellings).find_map(number)
    }

    fn object(&self, spellings: &[&str]) -> Self {
        self.find(spellings)
            .map(Self::read)
            .find(|figures| figures.0.len() > 0)
            .unwrap_or(Self(Members::default()))
    }
}

/// Reads a count that may be written as integer, float or string.
fn number(raw: &RawValue) -> Option<u64> {
    let text = raw.get().trim_matches('"').trim();
    text.parse().ok().or_else(|| {
        let float: f64 = text.parse().ok()?;
        // A count above 2^53 cannot be exact as a float, and is none.
        (0.0..=9_007_199_254_740_992.0)
            .contains(&float)
            .then_some(float as u64)
    })
}

/// Translates usage from the Responses shape to raw JSON in chat's shape. Returns `None` if it has
/// no figures.
pub(crate) fn to_chat(responses: &str) -> Option<String> {
    let usage = Usage::parse(serde_json::from_str(responses).ok()?)?;
    let (input, output, total) = usage.figures();
    let chat = ChatUsage {
        prompt_tokens: input,
        completion_tokens: output,
        total_tokens: total,
        prompt_tokens_details: usage.input_details(),
        completion_tokens_details: usage.output_details(),
    };
    // Serializing a struct of numbers cannot fail.
    serde_json::to_string(&chat).ok()
}

impl Usage {
    /// Reads a usage object in any known spelling. Returns `None` if it has no figures.
    pub(crate) fn parse(raw: &RawValue) -> Option<Self> {
        if let Some((usage, [])) = plain_usage::read(raw.get().as_bytes()) {
            return Some(usage.into());
        }
        let figures = Figures::read(raw);
        Self::of(&figures).or_else(|| Self::of(&figures.object(NESTED)))
    }

    fn of(figures: &Figures<'_>) -> Option<Self> {
        let (input_details, output_details) = (
            figures.object(INPUT_DETAILS),
            figures.object(OUTPUT_DETAILS),
        );
        let usage = Self {
            input: figures.number(INPUT),
            output: figures.number(OUTPUT),
            total: figures.number(TOTAL),
            cached: input_details
                .number(CACHED_DETAIL)
                .or_else(|| figures.number(CACHED)),
            reasoning: output_details
                .number(REASONING)
                .filter(|n| *n > 0)
                .or_else(|| figures.number(REASONING)),
        };
        let told = usage.input.is_some() || usage.output.is_some() || usage.total.is_some();
        told.then_some(usage)
    }

    /// Whether any figure is above zero.
    fn counts(&self) -> bool {
        [self.input, self.output, self.total]
            .into_iter()
            .flatten()
            .any(|n| n > 0)
    }

    /// Takes the figures of a later report. Figures that it lacks stay; a report of nothing but
    /// zeros replaces no real one.
    pub(crate) fn update(&mut self, later: Self) {
        if !later.counts() && self.counts() {
            return;
        }
        let complete = later.input.is_some() && later.output.is_some();
        *self = Self {
            input: later.input.or(self.input),
            output: later.output.or(self.output),
            // A total belongs to the figures that it was sent with.
            total: later.total.or(self.total.filter(|_| !complete)),
            cached: later.cached.or(self.cached),
            reasoning: later.reasoning.or(self.reasoning),
        };
    }

    /// Adds the usage of another choice of the same prompt.
    pub(crate) fn add_choice(&mut self, other: &Self) {
        let sum =
            |a: Option<u64>, b: Option<u64>| Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0)));
        self.output = sum(self.output, other.output);
        self.reasoning = sum(self.reasoning, other.reasoning);
        self.total = sum(self.input, self.output);
    }

    /// Adds the usage of another attempt at the same answer.
    pub(crate) fn add_attempt(self, other: Self) -> Self {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        let (input, output, total) = self.figures();
        let (other_input, other_output, other_total) = other.figures();
        Self {
            input: Some(input.saturating_add(other_input)),
            output: Some(output.saturating_add(other_output)),
            total: Some(total.saturating_add(other_total)),
            cached: sum(self.cached, other.cached),
            reasoning: sum(self.reasoning, other.reasoning),
        }
    }

    /// Input, output and total. The total is the server's own if it sent one, even if it is not the
    /// sum; a single missing figure follows from the other two.
    fn figures(&self) -> (u64, u64, u64) {
        let rest = |known: Option<u64>| Some(self.total?.saturating_sub(known?));
        let input = self.input.or_else(|| rest(self.output)).unwrap_or(0);
        let output = self.output.or_else(|| rest(self.input)).unwrap_or(0);
        let sum = input.saturating_add(output);
        (input, output, self.total.unwrap_or(sum))
    }

    fn input_details(&self) -> InputDetails {
        InputDetails {
            cached_tokens: self.cached.unwrap_or(0),
        }
    }

    fn output_details(&self) -> OutputDetails {
        OutputDetails {
            reasoning_tokens: self.reasoning.unwrap_or(0),
        }
    }

    /// Returns raw JSON in the Responses shape.
    pub(crate) fn to_responses(self) -> String {
        let (input, output, total) = self.figures();
        let tokens = TokenUsage {
            input,
            cached: self.cached.unwrap_or(0),
            output,
        };
        tokens.to_json(self.reasoning.unwrap_or(0), total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_usage_translates_to_chat() {
        for (raw, expected) in [
            (
                r#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":4},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":14}"#,
                Some((9, 5, 14, 4, 3)),
            ),
            (
                r#"{"input_tokens":9,"output_tokens":5}"#,
                Some((9, 5, 14, 0, 0)),
            ),
            (
                r#"{"input_tokens":9,"input_tokens_details":null,"output_tokens":5,"total_tokens":99,"cost":1}"#,
                Some((9, 5, 99, 0, 0)),
            ),
            ("null", None),
            ("{}", None),
        ] {
            let expected = expected.map(|(prompt, completion, total, cached, reasoning)| {
                format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}},"completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#)
            });
            assert_eq!(to_chat(raw), expected, "{raw}");
        }
    }

    /// The quick way gives what the other one does, for what it takes.
    #[test]
    fn plain_usage_is_read_as_any_other() {
        for raw in [
            r#"{"prompt_tokens":78,"completion_tokens":9,"total_tokens":87,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#,
            r#"{"completion_tokens":0,"prompt_tokens":0,"total_tokens":0}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":9,"completion_tokens_details":{"reasoning_tokens":0}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"reasoning_tokens":5}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"completion_tokens_details":{"cached_tokens":5}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"cached_tokens":null}}"#,
        ] {
            assert!(plain_usage::read(raw.as_bytes()).is_some(), "{raw}");
            let usage = Usage::parse(serde_json::from_str(raw).unwrap()).unwrap();
            let figures = Figures::read(serde_json::from_str(raw).unwrap());
            let by_name = Usage::of(&figures).unwrap();
            assert_eq!(usage.to_responses(), by_name.to_responses(), "{raw}");
        }
    }

    #[test]
    fn chat_usage_translates_to_responses() {
        for (raw, expected) in [
            (
                r#"{"prompt_tokens":78,"completion_tokens":9,"total_tokens":87,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}"#,
                Some((78, 4, 9, 3, 87)),
            ),
            (
                r#"{"prompt_tokens":28,"completion_tokens":12,"total_tokens":394,"completion_tokens_details":null,"reasoning_tokens":354}"#,
                Some((28, 0, 12, 354, 394)),
            ),
            (
                r#"{"total_tokens":7,"total_characters":0}"#,
                Some((0, 0, 0, 0, 7)),
            ),
            (
                r#"{"prompt_tokens":6,"completion_tokens":2,"prompt_cache_hit_tokens":5}"#,
                Some((6, 5, 2, 0, 8)),
            ),
            (
                r#"{"input_tokens":11,"output_tokens":5,"total_tokens":16,"cached_tokens":4}"#,
                Some((11, 4, 5, 0, 16)),
            ),
            (
                r#"{"prompt_tokens":11.0,"completion_tokens":5.0,"total_tokens":16.0}"#,
                Some((11, 0, 5, 0, 16)),
            ),
            (
                r#"{"prompt_tokens":"11","completion_tokens":"5"}"#,
                Some((11, 0, 5, 0, 16)),
            ),
            (
                r#"{"promptTokens":11,"completionTokens":5,"promptTokensDetails":{"cachedTokens":2}}"#,
                Some((11, 2, 5, 0, 16)),
            ),
            (
                r#"{"promptTokenCount":11,"candidatesTokenCount":5,"totalTokenCount":20,"thoughtsTokenCount":4,"cachedContentTokenCount":3}"#,
                Some((11, 3, 5, 4, 20)),
            ),
            (
                r#"{"input_tokens":11,"output_tokens":5,"cache_read_input_tokens":4}"#,
                Some((11, 4, 5, 0, 16)),
            ),
            (
                r#"{"completion_tokens":5,"total_tokens":16}"#,
                Some((11, 0, 5, 0, 16)),
            ),
            (r#"{"prompt_tokens":11,"prompt_tokens":null}"#, None),
            (
                r#"{"billed_units":{"input_tokens":9,"output_tokens":5},"tokens":{"input_tokens":11,"output_tokens":5}}"#,
                Some((11, 0, 5, 0, 16)),
            ),
            (r#"{"cost":1}"#, None),
            (r#"{"prompt_tokens":"six"}"#, None),
            (r#"{"prompt_tokens":-1}"#, None),
            ("[1]", None),
            ("null", None),
        ] {
            let raw: &RawValue = serde_json::from_str(raw).unwrap();
            let expected = expected.map(|(i, c, o, r, t)| {
                format!(r#"{{"input_tokens":{i},"input_tokens_details":{{"cached_tokens":{c}}},"output_tokens":{o},"output_tokens_details":{{"reasoning_tokens":{r}}},"total_tokens":{t}}}"#)
            });
            assert_eq!(
                Usage::parse(raw).map(Usage::to_responses),
                expected,
                "{raw}"
            );
        }
    }
}
