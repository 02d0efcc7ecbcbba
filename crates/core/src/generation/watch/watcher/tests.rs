use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::generation::Writer;
use crate::generation::fixture;
use crate::generation::watch::{
    Pattern, RuleProblem, WatchListener, WatchRule, WatchRules, WatchedKinds,
};
use crate::model::event::{DeltaKind, DeltaTarget, ItemHead, PartKind};
use crate::model::json;
use crate::model::text_place::TextKind;
use crate::upstream::translate::RecordWriter;

/// Keeps rule, part, offset and number of each match.
#[derive(Debug, Default)]
struct Matches(Mutex<Vec<(String, TextKind, u64, u64)>>);

impl WatchListener for Matches {
    fn matched(&self, _: &Generation, found: &RuleMatch) {
        let row = (
            found.name.to_string(),
            found.kind(),
            found.offset,
            found.seq.0,
        );
        self.0.lock().push(row);
    }
}

const TEXT: WatchedKinds = WatchedKinds {
    text: true,
    reasoning: false,
    arguments: false,
};

fn words(name: &str, words: &[&str]) -> WatchRule {
    WatchRule {
        name: name.to_owned(),
        pattern: Pattern::Words(words.iter().map(|word| (*word).to_owned()).collect()),
        on: TEXT,
        stops: false,
    }
}

fn expression(text: &str) -> WatchRule {
    WatchRule {
        name: text.to_owned(),
        pattern: Pattern::Expression(text.to_owned()),
        on: TEXT,
        stops: false,
    }
}

fn watch(rules: &[WatchRule]) -> (Watch, Arc<Matches>) {
    let listener = Arc::new(Matches::default());
    let rules = Arc::new(WatchRules::compile(rules).expect("the rules compile"));
    let watch = Watch {
        rules,
        listener: listener.clone(),
    };
    (watch, listener)
}

fn place() -> TextPlace {
    DeltaTarget {
        item: 0,
        part: 0,
        kind: DeltaKind::Text,
    }
    .into()
}

/// Returns the rule and the offset of each match in a text that comes in these pieces.
fn found<'a>(rules: &[WatchRule], pieces: impl IntoIterator<Item = &'a str>) -> Vec<(String, u64)> {
    let (watch, _) = watch(rules);
    let (mut watcher, _) = Watcher::new(watch, &Snapshot::default());
    for piece in pieces {
        watcher.text(place(), &json::escape(piece), Seq(0));
    }
    watcher.finish(Seq(0), 0, None);
    let found = watcher.found.iter();
    let mut found: Vec<_> = found
        .map(|found| (found.name.to_string(), found.offset))
        .collect();
    found.sort();
    found
}

fn offsets(rule: WatchRule, pieces: &[&str]) -> Vec<u64> {
    let found = found(&[rule], pieces.iter().copied());
    found.into_iter().map(|(_, offset)| offset).collect()
}

#[test]
fn word_over_token_borders_matches_once_per_part() {
    let rule = words("w", &["secret", "cre", "é\n\"x"]);
    assert_eq!(offsets(rule.clone(), &["a se", "c", "", "ret secret"]), [7]);
    assert_eq!(offsets(rule.clone(), &["é", "\n\"", "x"]), [5]);
    assert!(offsets(rule, &["SECRET secre_"]).len() == 1);
}

#[test]
fn expression_matches_where_its_last_character_is() {
    let number = || expression("[0-9]{3}-[0-9]{4}");
    assert_eq!(offsets(number(), &["call 555", "-01", "23 now"]), [13]);
    // Known at the end of a delta, without the next one.
    let (watch, _) = watch(&[number()]);
    let (mut watcher, _) = Watcher::new(watch, &Snapshot::default());
    watcher.text(place(), "555-0123", Seq(7));
    assert_eq!(watcher.found.len(), 1);
    assert_eq!((watcher.found[0].offset, watcher.found[0].seq), (8, Seq(7)));
}

#[test]
fn ends_of_words_and_texts_are_known_with_what_follows() {
    let rule = || expression(r"(?-u:\b)class(?-u:\b)");
    assert!(offsets(rule(), &["classic sub", "class"]).is_empty());
    assert_eq!(offsets(rule(), &["a class", "."]), [7]);
    assert_eq!(offsets(rule(), &["a cl", "ass"]), [7]);
    let end = || expression("over$");
    assert!(offsets(end(), &["over", " there"]).is_empty());
    assert_eq!(offsets(end(), &["it is over"]), [10]);
}

#[test]
fn rules_that_cannot_be_watched_for_are_refused_by_name() {
    for (text, expected) in [
        ("a*", RuleProblem::MatchesNothing),
        (r"\bword\b", RuleProblem::UnicodeWordBoundary),
        (r"[\w\s]{400}x[\w]{400}", RuleProblem::TooLarge),
    ] {
        let error = WatchRules::compile(&[words("first", &["x"]), expression(text)]).unwrap_err();
        assert_eq!((error.rule, error.name.as_str()), (1, text));
        assert_eq!(error.problem, expected, "{text}");
    }
    for text in ["(", "a(?=b)", r"(a)\1", "[z-a]"] {
        let error = WatchRules::compile(&[expression(text)]).unwrap_err();
        assert!(
            matches!(&error.problem, RuleProblem::Syntax(why) if !why.is_empty() && !why.contains('\n')),
            "{text}: {error}"
        );
        assert!(!error.problem.remedy().is_empty());
    }
    let empty = WatchRules::compile(&[words("none", &[])]).unwrap_err();
    assert_eq!(empty.problem, RuleProblem::Empty);
}

#[test]
fn ten_thousand_words_are_found() {
    let list: Vec<String> = (0..10_000)
        .map(|number| format!("word{number:05}x"))
        .collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    // The last one is found by the automaton for many words and by that for few.
    let few = words("few", &list[9_900..]);
    assert_eq!(offsets(few, &["a wo", "rd0", "9999", "x"]), [12]);
    let rule = words("many", &list);
    assert_eq!(offsets(rule.clone(), &["a wo", "rd0", "9999", "x"]), [12]);
    assert!(offsets(rule, &["a word10000x word0999 x"]).is_empty());
}

fn generation() -> Arc<Generation> {
    fixture::generation(fixture::meta(), Duration::ZERO)
}

fn say(writer: &mut Writer, records: &mut RecordWriter, kind: DeltaKind, text: &str) {
    let target = DeltaTarget {
        item: 0,
        part: u32::from(kind == DeltaKind::Refusal),
        kind,
    };
    records.text(target, text, None);
    records.record(None);
    writer.append(records).expect("the log is open");
}

fn answering(writer: &mut Writer) -> RecordWriter {
    let mut records = RecordWriter::new();
    records.event(EventKind::Created);
    records.open_item(ItemHead::Message { choice: 2 });
    for (part, kind) in [(0, PartKind::Text), (1, PartKind::Refusal)] {
        records.event(EventKind::PartAdded {
            item: 0,
            part,
            kind,
        });
    }
    records.record(None);
    writer.append(&mut records).expect("the log is open");
    records
}

#[test]
fn each_part_has_its_own_state() {
    let (watch, matches) = watch(&[words("w", &["secret"])]);
    let mut writer = Writer::new(generation());
    writer.watch_for(watch);
    let mut records = answering(&mut writer);
    say(&mut writer, &mut records, DeltaKind::Text, "sec");
    say(&mut writer, &mut records, DeltaKind::Refusal, "ret sec");
    say(&mut writer, &mut records, DeltaKind::Refusal, "ret");
    say(&mut writer, &mut records, DeltaKind::Text, "ret");
    let expected = [
        ("w".to_owned(), TextKind::Refusal, 10, 6),
        ("w".to_owned(), TextKind::Text, 6, 7),
    ];
    assert_eq!(*matches.0.lock(), expected);
}

#[test]
fn next_writer_goes_on_with_the_state_of_the_log() {
    let (watch, matches) = watch(&[words("w", &["secret"]), words("before", &["se"])]);
    let generation = generation();
    let mut first = Writer::new(generation.clone());
    first.watch_for(watch.clone());
    let mut records = answering(&mut first);
    say(&mut first, &mut records, DeltaKind::Text, "my sec");
    assert_eq!(matches.0.lock().len(), 1);
    // The process of the first one is lost; it seals nothing any more.
    let mut second = Writer::new(generation.clone());
    second.watch_for(watch);
    let end = generation.tail().expect("the log is there").next;
    let mut records = RecordWriter::in_epoch(end, generation.log().epoch());
    say(&mut second, &mut records, DeltaKind::Text, "ret");
    let found = matches.0.lock().clone();
    assert_eq!(found.len(), 2, "{found:?}");
    let last = ("w".to_owned(), TextKind::Text, 9, 1 << 24);
    assert_eq!(found[1], last);
    drop(first);
}

#[test]
fn stop_drops_what_follows_the_match_in_a_batch() {
    let rule = WatchRule {
        stops: true,
        ..words("w", &["secret"])
    };
    let (watch, _) = watch(&[rule]);
    let mut writer = Writer::new(generation());
    writer.watch_for(watch);
    let mut records = answering(&mut writer);
    let target = DeltaTarget {
        item: 0,
        part: 0,
        kind: DeltaKind::Text,
    };
    for piece in ["a sec", "ret", " and more"] {
        records.text(target, piece, None);
        records.record(None);
    }
    writer.append(&mut records).expect("the log is open");
    assert!(writer.is_filtered());
    writer.end_filtered(None);
    let generation = writer.generation().clone();
    drop(writer);
    let object = String::from_utf8(generation.response_json()).expect("JSON is UTF-8");
    assert!(object.contains(r#""text":"a secret""#), "{object}");
    assert!(object.contains(r#""reason":"content_filter""#), "{object}");
    assert!(generation.is_over());
}

#[test]
fn next_writer_ends_what_the_one_before_has_stopped() {
    let rule = WatchRule {
        stops: true,
        ..words("w", &["secret"])
    };
    let (watch, matches) = watch(&[rule]);
    let generation = generation();
    let mut first = Writer::new(generation.clone());
    first.watch_for(watch.clone());
    let mut records = answering(&mut first);
    say(&mut first, &mut records, DeltaKind::Text, "a secret");
    // Its process is lost before it writes the end.
    let mut second = Writer::new(generation.clone());
    second.watch_for(watch);
    assert!(second.is_filtered());
    second.end_filtered(None);
    assert!(generation.is_over());
    let object = String::from_utf8(generation.response_json()).expect("JSON is UTF-8");
    assert!(object.contains(r#""text":"a secret""#), "{object}");
    assert!(object.contains(r#""reason":"content_filter""#), "{object}");
    assert_eq!(matches.0.lock().len(), 1, "it is not reported again");
    drop(first);
}

#[test]
fn parts_that_are_looked_at_are_bounded_until_they_are_complete() {
    let (watch, _) = watch(&[words("w", &["secret"])]);
    let (mut watcher, _) = Watcher::new(watch, &Snapshot::default());
    let at = |item| TextPlace { item, ..place() };
    let most = MAX_PARTS as u64;
    for item in 0..most + 10 {
        watcher.text(at(item), "sec", Seq(0));
    }
    watcher.text(at(most - 1), "ret", Seq(0));
    assert_eq!(watcher.found.len(), 1, "the last one that has room");
    watcher.text(at(most + 1), "secret", Seq(0));
    assert_eq!(watcher.found.len(), 1, "one beyond");
    watcher.finish(Seq(0), 7, None);
    watcher.text(at(most + 1), "secret", Seq(0));
    assert_eq!(watcher.found.len(), 2, "one that got the room");
}

/// Texts of few letters, so that words are in them.
fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[abc]", "[abc]", "[é\n\"😊]"], 0..40)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_matches(text in text(), cuts in proptest::collection::vec(0usize..200, 0..12)) {
        let rules = [
            words("few", &["abc", "ca", "é"]),
            words("long", &["aab\"", "cc😊a", "bb\nb"]),
            expression("a[bc]+a"),
            expression(r"(?-u:\b)ab(?-u:\b)"),
            expression("c$"),
            expression("^b"),
            expression("(?i)B.C"),
        ];
        let whole = found(&rules, [text.as_str()]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| text.floor_char_boundary(cut)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let mut start = 0;
        let pieces = cuts.iter().map(|cut| {
            let piece = &text[start..*cut];
            start = *cut;
            piece
        });
        let pieces: Vec<&str> = pieces.collect();
        prop_assert_eq!(&found(&rules, pieces), &whole);
        let naive = ["abc", "ca", "é"].iter().filter_map(|word| Some(text.find(word)? + word.len())).min();
        let few = whole.iter().find(|(name, _)| name == "few").map(|(_, offset)| *offset as usize);
        prop_assert_eq!(few, naive);
    }
}
