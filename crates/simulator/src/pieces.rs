//! The text of an answer as tokens.

use crate::dice::Dice;
use crate::steering::Wording;

/// A text as tokens. A generated text is produced token by token as it is read, so a stream of a
/// million tokens needs no memory.
#[derive(Debug, Clone)]
pub(crate) enum Pieces {
    Written {
        text: String,
        ends: Vec<usize>,
    },
    Generated {
        count: u64,
        wording: Wording,
        size: usize,
        seed: u64,
    },
}

/// The most bytes of generated text held at once, for answers that are not streamed and for events
/// that repeat the full text.
pub(crate) const HELD_LIMIT: u64 = 64 * 1024 * 1024;

const WORDS: [&str; 32] = [
    "amber", "river", "stone", "cloud", "maple", "ember", "tide", "north", "lantern", "meadow",
    "copper", "willow", "harbor", "signal", "velvet", "orbit", "cedar", "prism", "canyon", "drift",
    "echo", "fable", "garnet", "hollow", "island", "juniper", "kettle", "lagoon", "mirror",
    "nectar", "opal", "quartz",
];

// === impl Pieces ===

impl Pieces {
    /// A text cut as a tokenizer might: a word with the blank before it, a mark, a CJK character;
    /// long words in pieces of up to eight characters.
    pub(crate) fn written(text: impl Into<String>) -> Self {
        let text = text.into();
        let mut ends = Vec::with_capacity(text.len() / 4 + 1);
        let mut letters = 0_usize;
        let mut previous = Class::Start;
        for (at, character) in text.char_indices() {
            let class = Class::of(character);
            let joins = match (previous, class) {
                (Class::Start, _) => true,
                (Class::Blank, Class::Blank | Class::Letter) => true,
                (Class::Letter, Class::Letter) => letters < 8,
                (Class::Break, Class::Break) => true,
                // A joined emoji is a sequence of code points that stay together.
                (_, Class::Joiner) | (Class::Joiner, _) => true,
                _ => false,
            };
            if !joins {
                ends.push(at);
                letters = 0;
            }
            if class == Class::Letter {
                letters += 1;
            }
            previous = class;
        }
        if !text.is_empty() {
            ends.push(text.len());
        }
        Self::Written { text, ends }
    }

    /// Splits a text into pieces of `length` characters, as for the arguments of a call.
    pub(crate) fn chopped(text: impl Into<String>, length: usize) -> Self {
        let text = text.into();
        let mut ends: Vec<usize> = text
            .char_indices()
            .map(|(at, _)| at)
            .step_by(length.max(1))
            .skip(1)
            .collect();
        if !text.is_empty() {
            ends.push(text.len());
        }
        Self::Written { text, ends }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Written { ends, .. } => ends.len() as u64,
            Self::Generated { count, .. } => *count,
        }
    }

    /// Appends token `index` to `out`.
    pub(crate) fn write(&self, index: u64, out: &mut String) {
        match self {
            Self::Written { text, ends } => {
                let index = index as usize;
                let start = index
                    .checked_sub(1)
                    .and_then(|before| ends.get(before))
                    .copied()
                    .unwrap_or(0);
                let end = ends.get(index).copied().unwrap_or(text.len());
                out.push_str(&text[start..end]);
            }
            Self::Generated {
                wording,
                size,
                seed,
                ..
            } => {
                let start = out.len();
                out.push(' ');
                match wording {
                    Wording::Words => out.push_str(WORDS[(Dice::at(*seed, index) % 32) as usize]),
                    Wording::Count => out.push('t'),
                }
                out.push_str(itoa::Buffer::new().format(index));
                let short_of = size.saturating_sub(out.len() - start);
                out.extend(std::iter::repeat_n('_', short_of));
            }
        }
    }

    /// Returns an upper bound for the bytes of the full text.
    pub(crate) fn bytes_at_most(&self) -> u64 {
        match self {
            Self::Written { text, .. } => text.len() as u64,
            Self::Generated { count, size, .. } => count.saturating_mul((*size as u64).max(20)),
        }
    }

    /// Returns the full text. Check [`bytes_at_most`](Self::bytes_at_most) first.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Written { text, .. } => text.clone(),
            Self::Generated { count, .. } => (0..*count).fold(String::new(), |mut text, index| {
                self.write(index, &mut text);
                text
            }),
        }
    }

    /// Keeps the first `limit` tokens. Returns whether any were dropped.
    pub(crate) fn limit(&mut self, limit: u64) -> bool {
        let cut = self.len() > limit;
        if cut {
            match self {
                Self::Written { text, ends } => {
                    ends.truncate(limit as usize);
                    text.truncate(ends.last().copied().unwrap_or(0));
                }
                Self::Generated { count, .. } => *count = limit,
            }
        }
        cut
    }

    /// Ends the text before the first of the `stops`, as OpenAI does. Returns whether one was
    /// found.
    pub(crate) fn stop_before(&mut self, stops: &[String]) -> bool {
        if stops.iter().all(String::is_empty) {
            return false;
        }
        let whole = self.text();
        let Some(at) = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| whole.find(stop.as_str()))
            .min()
        else {
            return false;
        };
        let mut ends = Vec::new();
        match self {
            Self::Written { ends: old, .. } => {
                ends = old.iter().copied().take_while(|end| *end < at).collect()
            }
            Self::Generated { count, .. } => {
                let count = *count;
                let mut token = String::new();
                let mut end = 0;
                for index in 0..count {
                    token.clear();
                    self.write(index, &mut token);
                    end += token.len();
                    if end >= at {
                        break;
                    }
                    ends.push(end);
                }
            }
        }
        if at > 0 {
            ends.push(at);
        }
        let mut text = whole;
        text.truncate(at);
        *self = Self::Written { text, ends };
        true
    }
}

/// The class of a character for the split into tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Start,
    Blank,
    Break,
    Letter,
    Joiner,
    Mark,
}

impl Class {
    fn of(character: char) -> Self {
        match character {
            '\n' | '\r' => Self::Break,
            ' ' | '\t' => Self::Blank,
            '\u{200d}' | '\u{fe0f}' => Self::Joiner,
            // CJK: each character is a token.
            '\u{2e80}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' => {
                Self::Mark
            }
            letter if letter.is_alphanumeric() => Self::Letter,
            _ => Self::Mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &Pieces) -> Vec<String> {
        (0..pieces.len())
            .map(|index| {
                let mut token = String::new();
                pieces.write(index, &mut token);
                token
            })
            .collect()
    }

    fn generated(count: u64, wording: Wording, size: usize) -> Pieces {
        Pieces::Generated {
            count,
            wording,
            size,
            seed: 1,
        }
    }

    #[test]
    fn tokens_concatenate_to_the_text() {
        let table = [
            ("", vec![]),
            ("Hello, world!", vec!["Hello", ",", " world", "!"]),
            ("a\n\nb", vec!["a", "\n\n", "b"]),
            ("extraordinarily so", vec!["extraord", "inarily", " so"]),
            ("你好 ok", vec!["你", "好", " ok"]),
            ("👩\u{200d}🚀!", vec!["👩\u{200d}🚀", "!"]),
        ];
        for (text, expected) in table {
            let pieces = Pieces::written(text);
            assert_eq!(all(&pieces), expected, "{text}");
            assert_eq!(pieces.text(), text);
        }
    }

    #[test]
    fn generated_tokens_are_numbered() {
        assert_eq!(all(&generated(3, Wording::Count, 0)), [" t0", " t1", " t2"]);
        assert_eq!(
            all(&generated(2, Wording::Count, 8)),
            [" t0_____", " t1_____"]
        );
        let words = all(&generated(20, Wording::Words, 0));
        for (index, word) in words.iter().enumerate() {
            assert!(
                word.starts_with(' ') && word.ends_with(&index.to_string()),
                "{word}"
            );
        }
    }

    #[test]
    fn limit_and_stop_words_end_the_text() {
        for (stop, kept, tokens) in [
            (" t2", " t0 t1", 2),
            ("t2", " t0 t1 ", 3),
            ("1 t", " t0 t", 2),
            (" t0", "", 0),
        ] {
            let written = Pieces::written(generated(5, Wording::Count, 0).text());
            for mut pieces in [generated(5, Wording::Count, 0), written] {
                assert!(
                    pieces.stop_before(&[stop.to_owned(), "nothing".to_owned()]),
                    "{stop}"
                );
                assert_eq!(
                    (pieces.text().as_str(), pieces.len()),
                    (kept, tokens),
                    "{stop}"
                );
                assert_eq!(all(&pieces).concat(), kept);
            }
        }
        let mut pieces = generated(5, Wording::Count, 0);
        assert!(!pieces.stop_before(&["zzz".to_owned()]));
        assert!(pieces.limit(2));
        assert_eq!(pieces.text(), " t0 t1");
        let mut pieces = Pieces::written("one two three");
        assert!(pieces.limit(2));
        assert!(!pieces.limit(2));
        assert_eq!(pieces.text(), "one two");
    }
}
