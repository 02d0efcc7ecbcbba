//! Strings that match a regular expression of a schema's `pattern`.
//!
//! Literals, classes, groups, alternatives, repetitions and the anchors at both ends are understood.
//! That is what schemas use; look-around, back references and Unicode categories are not.

use crate::dice::Dice;

/// The most characters of one string.
const MAX_LENGTH: usize = 4096;
/// How deep groups are followed.
const MAX_DEPTH: usize = 16;

#[derive(Debug)]
enum Node {
    Literal(char),
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// Alternatives, each a sequence.
    Group(Vec<Vec<Node>>),
    Repeat {
        node: Box<Node>,
        least: usize,
        most: usize,
    },
}

/// Returns a string that matches `pattern` and has at least `least` characters where repetitions
/// allow it. `None` if the pattern has parts that are not understood.
pub(super) fn matching(pattern: &str, least: usize, dice: &mut Dice) -> Option<String> {
    let characters: Vec<char> = pattern.chars().collect();
    let mut parser = Parser {
        characters: &characters,
        at: 0,
    };
    let node = parser.alternatives(0)?;
    if parser.at < characters.len() {
        return None;
    }
    let mut text = String::new();
    let mut extra = 0;
    loop {
        text.clear();
        write(&node, extra, dice, &mut text);
        let length = text.chars().count();
        if length >= least || extra > least || length >= MAX_LENGTH {
            return (length < MAX_LENGTH).then_some(text);
        }
        extra = (extra * 2).max(1);
    }
}

struct Parser<'a> {
    characters: &'a [char],
    at: usize,
}

// === impl Parser ===

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        Some(character)
    }

    fn take(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        self.at += usize::from(found);
        found
    }

    fn alternatives(&mut self, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut alternatives = vec![self.sequence(depth)?];
        while self.take('|') {
            alternatives.push(self.sequence(depth)?);
        }
        Some(Node::Group(alternatives))
    }

    fn sequence(&mut self, depth: usize) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        while let Some(character) = self.peek() {
            if matches!(character, '|' | ')') {
                break;
            }
            self.at += 1;
            let node = match character {
                '^' | '$' => continue,
                '.' => any(),
                '[' => self.class()?,
                '(' => {
                    if self.take('?') {
                        self.group_kind()?;
                    }
                    let group = self.alternatives(depth + 1)?;
                    if !self.take(')') {
                        return None;
                    }
                    group
                }
                '\\' => self.escape()?,
                '*' | '+' | '?' => return None,
                other => Node::Literal(other),
            };
            nodes.push(self.repetition(node)?);
        }
        Some(nodes)
    }

    /// Skips `?:` and the name of a group; look-around is not understood.
    fn group_kind(&mut self) -> Option<()> {
        if self.take(':') {
            return Some(());
        }
        self.take('P');
        if !self.take('<') || matches!(self.peek(), Some('=' | '!')) {
            return None;
        }
        while self.next()? != '>' {}
        Some(())
    }

    fn repetition(&mut self, node: Node) -> Option<Node> {
        let (least, most) = match self.peek() {
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('?') => (0, 1),
            Some('{') => {
                self.at += 1;
                return self.counted(node);
            }
            _ => return Some(node),
        };
        self.at += 1;
        Some(self.repeat(node, least, most))
    }

    fn counted(&mut self, node: Node) -> Option<Node> {
        let least = self.number().unwrap_or(0);
        let most = if self.take(',') {
            self.number().unwrap_or(usize::MAX)
        } else {
            least
        };
        (self.take('}') && least <= most).then(|| self.repeat(node, least, most))
    }

    fn repeat(&mut self, node: Node, least: usize, most: usize) -> Node {
        // A lazy or possessive repetition matches the same strings.
        if matches!(self.peek(), Some('?' | '+')) {
            self.at += 1;
        }
        Node::Repeat {
            node: Box::new(node),
            least,
            most,
        }
    }

    fn number(&mut self) -> Option<usize> {
        let start = self.at;
        while self.peek().is_some_and(|digit| digit.is_ascii_digit()) {
            self.at += 1;
        }
        let digits: String = self.characters[start..self.at].iter().collect();
        digits.parse().ok()
    }

    fn escape(&mut self) -> Option<Node> {
        match self.next()? {
            'b' => Some(Node::Group(vec![Vec::new()])),
            character => {
                let (ranges, negated) = self.escaped(character)?;
                Some(match ranges.as_slice() {
                    [(first, last)] if first == last && !negated => Node::Literal(*first),
                    _ => Node::Class { ranges, negated },
                })
            }
        }
    }

    /// The characters that an escape stands for, and whether all others are meant.
    fn escaped(&mut self, character: char) -> Option<(Vec<(char, char)>, bool)> {
        let digits = vec![('0', '9')];
        let words = vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')];
        let blanks = vec![(' ', ' '), ('\t', '\t'), ('\n', '\n'), ('\r', '\r')];
        Some(match character {
            'd' => (digits, false),
            'D' => (digits, true),
            'w' => (words, false),
            'W' => (words, true),
            's' => (blanks, false),
            'S' => (blanks, true),
            't' => (vec![('\t', '\t')], false),
            'n' => (vec![('\n', '\n')], false),
            'r' => (vec![('\r', '\r')], false),
            'u' => {
                let code = self.characters.get(self.at..self.at + 4)?;
                let code: String = code.iter().collect();
                self.at += 4;
                let character = char::from_u32(u32::from_str_radix(&code, 16).ok()?)?;
                (vec![(character, character)], false)
            }
            other if other.is_ascii_alphanumeric() => return None,
            other => (vec![(other, other)], false),
        })
    }

    fn class(&mut self) -> Option<Node> {
        let negated = self.take('^');
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            let character = self.next()?;
            if character == ']' && !first {
                break;
            }
            first = false;
            let low = if character == '\\' {
                let escape = self.next()?;
                match self.escaped(escape)? {
                    (_, true) => return None,
                    (escaped, false) => match escaped.as_slice() {
                        [(low, high)] if low == high => *low,
                        _ => {
                            ranges.extend(escaped);
                            continue;
                        }
                    },
                }
            } else {
                character
            };
            let is_range = self.peek() == Some('-')
                && self
                    .characters
                    .get(self.at + 1)
                    .is_some_and(|end| *end != ']');
            if !is_range {
                ranges.push((low, low));
                continue;
            }
            self.at += 1;
            let high = match self.next()? {
                '\\' => {
                    let escape = self.next()?;
                    self.escaped(escape)?.0.first()?.0
                }
                high => high,
            };
            if high < low {
                return None;
            }
            ranges.push((low, high));
        }
        Some(Node::Class { ranges, negated })
    }
}

/// Any character: letters and digits, which need no escapes in JSON.
fn any() -> Node {
    Node::Class {
        ranges: vec![('a', 'z'), ('0', '9')],
        negated: false,
    }
}

/// Appends a match of `node`. Repetitions take `extra` rounds more than their least number.
fn write(node: &Node, extra: usize, dice: &mut Dice, text: &mut String) {
    if text.len() >= MAX_LENGTH {
        return;
    }
    match node {
        Node::Literal(character) => text.push(*character),
        Node::Class { ranges, negated } => text.extend(character(ranges, *negated, dice)),
        Node::Group(alternatives) => {
            let index = (dice.roll() % alternatives.len() as u64) as usize;
            for node in &alternatives[index] {
                write(node, extra, dice, text);
            }
        }
        Node::Repeat { node, least, most } => {
            let usual = least.saturating_add((dice.roll() % 4) as usize + extra);
            for _ in 0..usual.min(*most) {
                if text.len() >= MAX_LENGTH {
                    return;
                }
                write(node, extra, dice, text);
            }
        }
    }
}

/// Returns a character of the class; of a negated one, a printable ASCII character.
fn character(ranges: &[(char, char)], negated: bool, dice: &mut Dice) -> Option<char> {
    if !negated {
        let (low, high) = ranges.get((dice.roll() % ranges.len().max(1) as u64) as usize)?;
        let span = u64::from(u32::from(*high) - u32::from(*low)) + 1;
        let code = u32::from(*low) + (dice.roll() % span) as u32;
        // The surrogates are no characters.
        return char::from_u32(code).or(Some(*low));
    }
    let is_outside = |character: &char| {
        !ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(character))
    };
    let allowed: Vec<char> = ('a'..='z')
        .chain('0'..='9')
        .chain(' '..='~')
        .filter(is_outside)
        .collect();
    allowed
        .get((dice.roll() % allowed.len().max(1) as u64) as usize)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, is_match: impl Fn(&str) -> bool) {
        for seed in 0..50 {
            let text = matching(pattern, 0, &mut Dice::new(seed)).unwrap();
            assert!(is_match(&text), "{text:?} does not match {pattern}");
        }
    }

    #[test]
    fn strings_match_their_pattern() {
        check("^abc$", |text| text == "abc");
        check(r"^[A-Z]{3}-\d{4}$", |text| {
            let (letters, digits) = text.split_once('-').unwrap();
            letters.len() == 3
                && letters.chars().all(|c| c.is_ascii_uppercase())
                && digits.len() == 4
                && digits.chars().all(|c| c.is_ascii_digit())
        });
        check(r"^(?:red|green|b(lue)?)$", |text| {
            ["red", "green", "b", "blue"].contains(&text)
        });
        check(r"^@[a-zA-Z0-9_]+$", |text| {
            let name = text.strip_prefix('@').unwrap();
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        check(r"^[^a-z\s]{2,3}$", |text| {
            (2..=3).contains(&text.len())
                && !text.contains(|c: char| c.is_ascii_lowercase() || c.is_whitespace())
        });
        check(r"^\+?\(\d\)\.$", |text| {
            text.trim_start_matches('+').starts_with('(') && text.ends_with(").")
        });
        check(r"^[\w.-]+@[\w-]+\.[a-z]{2,}$", |text| {
            text.split_once('@')
                .is_some_and(|(_, host)| host.contains('.'))
        });
    }

    #[test]
    fn repetitions_reach_the_least_length() {
        let text = matching("^[a-f0-9]+$", 40, &mut Dice::new(1)).unwrap();
        assert!(text.len() >= 40, "{text}");
        assert_eq!(matching("^x$", 40, &mut Dice::new(1)).unwrap(), "x");
    }

    #[test]
    fn patterns_with_unknown_parts_have_no_match() {
        for pattern in [
            "(?=a)b", r"(a)\1", "*", "(", "[", "a{3,2}", r"\p{L}", "a{9999}",
        ] {
            assert_eq!(matching(pattern, 0, &mut Dice::new(1)), None, "{pattern}");
        }
    }

    #[test]
    fn nested_repetitions_are_bounded() {
        let pattern = "((((a{1000}){1000}){1000}){1000})";
        assert_eq!(matching(pattern, 0, &mut Dice::new(1)), None);
        assert_eq!(matching(&"(".repeat(1000), 0, &mut Dice::new(1)), None);
    }
}
