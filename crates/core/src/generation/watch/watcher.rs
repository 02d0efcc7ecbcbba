//! The states of one generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::expression::ExpressionState;
use super::words::WordState;
use super::{RuleMatch, Watch};
use crate::generation::Generation;
use crate::model::event::EventKind;
use crate::model::id::Seq;
use crate::model::json::Unescaper;
use crate::model::record::{BatchPosition, Content, KnownTemplate, RecordBatch};
use crate::model::snapshot::{Change, Snapshot};
use crate::model::text_place::{TextKind, TextPlace};

/// The most parts of one answer that are looked at at the same time. A part counts until it is complete.
const MAX_PARTS: usize = 4096;

/// Looks for the rules in one generation.
#[derive(Debug)]
pub(crate) struct Watcher {
    watch: Watch,
    /// Parts that may go on, without the current one.
    parts: BTreeMap<TextPlace, PartState>,
    /// The one that the last delta belongs to.
    current: Option<PartState>,
    /// A delta that had escapes.
    unescaped: Vec<u8>,
    /// Not reported yet.
    found: Vec<RuleMatch>,
}

/// The state of one text.
#[derive(Debug)]
struct PartState {
    place: TextPlace,
    words: Option<WordState>,
    /// In the order of the expressions that look at this kind of part.
    expressions: Box<[ExpressionState]>,
    unescaper: Unescaper,
    /// Bytes of the text so far.
    bytes: u64,
    /// Rules that have matched.
    matched: Vec<u32>,
}

/// Where a batch is cut, since a rule stops the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// After the record with the match.
    pub(crate) at: BatchPosition,
    /// Changes of the records before it.
    pub(crate) changes: usize,
}

// === impl Watcher ===

impl Watcher {
    /// Goes on with an answer that has these texts, where nothing is reported again. Returns as well
    /// whether a rule stops the answer because of them.
    pub(crate) fn new(watch: Watch, snapshot: &Snapshot) -> (Self, bool) {
        let mut watcher = Self {
            watch,
            parts: BTreeMap::new(),
            current: None,
            unescaped: Vec::new(),
            found: Vec::new(),
        };
        for (place, text) in snapshot.open_texts() {
            watcher.text(place, &text, Seq(0));
        }
        let stops = watcher.found.iter().any(|found| found.stops);
        watcher.found.clear();
        (watcher, stops)
    }

    /// Looks at a batch before it is appended. `changes` are the events of its full records. Returns
    /// where the answer stops, if it does.
    pub(crate) fn observe(
        &mut self,
        batch: &RecordBatch,
        changes: &[Change],
        templates: &[Arc<KnownTemplate>],
    ) -> Option<Cut> {
        self.found.clear();
        let mut seen = 0;
        let mut at = batch.start();
        while let Some((record, after)) = batch.record_at(at) {
            at = after;
            match Content::delta(record.payload) {
                Ok(Some((template, holes))) => {
                    if let Some(known) = templates.get(template) {
                        let text = holes.text(&known.template).unwrap_or_default();
                        let text = std::str::from_utf8(text).unwrap_or_default();
                        self.text(known.template.target.into(), text, record.first_seq);
                    }
                }
                Ok(None) => {
                    let events = usize::try_from(record.events).unwrap_or(usize::MAX);
                    for (number, change) in changes.iter().skip(seen).take(events).enumerate() {
                        self.change(change, Seq(record.first_seq.0 + number as u64));
                    }
                    seen += events;
                }
                Err(_) => {}
            }
            if self.found.iter().any(|found| found.stops) {
                return Some(Cut { at, changes: seen });
            }
        }
        None
    }

    /// Reports what was found, once it is appended. Returns whether the answer stops.
    pub(crate) fn report(&mut self, generation: &Generation) -> bool {
        let mut stops = false;
        for mut found in self.found.drain(..) {
            stops |= found.stops;
            found.choice = generation.choice_of(found.place);
            self.watch.listener.matched(generation, &found);
        }
        stops
    }

    fn change(&mut self, change: &Change, seq: Seq) {
        match change {
            Change::Event(EventKind::Delta { target, text, .. }) => {
                self.text((*target).into(), text, seq);
            }
            Change::Event(EventKind::TextDone { item, part }) => {
                self.finish(seq, u64::from(*item), Some(*part));
            }
            Change::Event(EventKind::ArgumentsDone { item } | EventKind::ItemDone { item, .. }) => {
                self.finish(seq, u64::from(*item), None);
            }
            Change::Relayed {
                update: Some(update),
                ..
            } => {
                if let Some((place, text)) = update.piece() {
                    self.text(place, text, seq);
                }
                if update.completes_item() {
                    self.finish(seq, update.index(), None);
                }
            }
            Change::Event(_) | Change::Relayed { .. } => {}
        }
    }

    /// Goes on with a part.
    fn text(&mut self, place: TextPlace, escaped: &str, seq: Seq) {
        if escaped.is_empty() || !self.watch.rules.looks_at(place.kind) {
            return;
        }
        if self.current.as_ref().is_none_or(|part| part.place != place) {
            if let Some(earlier) = self.current.take() {
                self.parts.insert(earlier.place, earlier);
            }
            self.current = self.parts.remove(&place);
            if self.current.is_none() && self.parts.len() < MAX_PARTS {
                self.current = Some(PartState::new(place, &self.watch));
            }
        }
        let Some(part) = &mut self.current else {
            return;
        };
        if memchr::memchr(b'\\', escaped.as_bytes()).is_none() && !part.unescaper.holds() {
            part.advance(&self.watch, escaped.as_bytes(), seq, &mut self.found);
            return;
        }
        self.unescaped.clear();
        part.unescaper.push(escaped, &mut self.unescaped);
        part.advance(&self.watch, &self.unescaped, seq, &mut self.found);
        // A long one, such as a completion in one piece, must not keep its memory.
        self.unescaped.shrink_to(16 * 1024);
    }

    /// Ends the texts of this part of an item, or of all its parts: nothing follows.
    fn finish(&mut self, seq: Seq, item: u64, part: Option<u32>) {
        if let Some(current) = self.current.take() {
            self.parts.insert(current.place, current);
        }
        let first = TextPlace {
            item,
            part: part.unwrap_or(0),
            kind: TextKind::Text,
            relayed: false,
        };
        let following = self.parts.range(first..).map(|(place, _)| *place);
        let ended: Vec<TextPlace> = following
            .take_while(|place| place.item == item && part.is_none_or(|part| place.part == part))
            .collect();
        for place in ended {
            if let Some(mut state) = self.parts.remove(&place) {
                state.finish(&self.watch, seq, &mut self.found);
            }
        }
    }
}

// === impl PartState ===

impl PartState {
    fn new(place: TextPlace, watch: &Watch) -> Self {
        let rules = &watch.rules;
        Self {
            place,
            words: rules.words.as_ref().map(|words| words.start()),
            expressions: rules
                .expressions_on(place.kind)
                .map(|expression| expression.start())
                .collect(),
            unescaper: Unescaper::default(),
            bytes: 0,
            matched: Vec::new(),
        }
    }

    fn advance(&mut self, watch: &Watch, text: &[u8], seq: Seq, found: &mut Vec<RuleMatch>) {
        let rules = &watch.rules;
        let (place, before) = (self.place, self.bytes);
        let first = found.len();
        if let (Some(words), Some(state)) = (&rules.words, &mut self.words) {
            let matched = &mut self.matched;
            words.advance(state, text, |rule, end| {
                let looks = rules.rule(rule).is_some_and(|rule| rule.on.has(place.kind));
                if looks && !matched.contains(&rule) {
                    matched.push(rule);
                    found.extend(new_match(watch, place, rule, before + end as u64, seq));
                }
            });
        }
        let expressions = rules.expressions_on(place.kind);
        for (expression, state) in expressions.zip(&mut self.expressions) {
            if let Some(end) = expression.advance(state, text) {
                let end = before + end as u64;
                found.extend(new_match(watch, place, expression.rule, end, seq));
            }
        }
        self.bytes += text.len() as u64;
        if let Some(found) = found.get_mut(first..) {
            found.sort_by_key(|found| found.offset);
        }
    }

    fn finish(&mut self, watch: &Watch, seq: Seq, found: &mut Vec<RuleMatch>) {
        let mut rest = Vec::new();
        self.unescaper.finish(&mut rest);
        if !rest.is_empty() {
            self.advance(watch, &rest, seq, found);
        }
        let expressions = watch.rules.expressions_on(self.place.kind);
        for (expression, state) in expressions.zip(&mut self.expressions) {
            if expression.finish(state) {
                found.extend(new_match(
                    watch,
                    self.place,
                    expression.rule,
                    self.bytes,
                    seq,
                ));
            }
        }
    }
}

fn new_match(
    watch: &Watch,
    place: TextPlace,
    rule: u32,
    offset: u64,
    seq: Seq,
) -> Option<RuleMatch> {
    let compiled = watch.rules.rule(rule)?;
    Some(RuleMatch {
        rule: rule as usize,
        name: compiled.name.clone(),
        stops: compiled.stops,
        seq,
        choice: 0,
        offset,
        place,
    })
}

#[cfg(test)]
mod tests;
