//! Random steps in random order: generations that write, readers that attach, stall, detach and
//! resume, ends of every kind, timeouts, eviction and deletion. The model is what the upstream
//! sent: every reader gets exactly that from its position on.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use proptest::prelude::*;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{ReaderKind, Resumption, Retention};
use tokenwire_core::generation::{Generation, SubscriptionError};
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::account::AccountKind;
use tokenwire_core::model::error::ErrorCode;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Audit, Call, EngineOptions, Line, Reader, TestEngine, settle};
use tokio::time::Instant;

/// One step. Indexes are taken modulo the number of subjects or followers.
#[derive(Clone, Debug)]
enum Step {
    Start {
        background: bool,
        store: bool,
    },
    Produce {
        subject: usize,
        chunks: Vec<Chunk>,
    },
    End {
        subject: usize,
        how: How,
    },
    Cancel {
        subject: usize,
    },
    Delete {
        subject: usize,
    },
    Attach {
        subject: usize,
        dialect: Dialect,
        at: usize,
    },
    ReadPiece {
        follower: usize,
    },
    ReadAll {
        follower: usize,
    },
    Detach {
        follower: usize,
    },
    Resume {
        follower: usize,
        at: usize,
    },
    Settle,
    Wait {
        seconds: u64,
    },
}

/// What the upstream sends: chunks that match a template, others, and events without tokens.
#[derive(Clone, Debug)]
enum Chunk {
    Text(String),
    Reasoning(String),
    Odd(String),
    Call { index: u8, piece: String },
    Nothing,
    Usage,
    Comment,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Stop,
    Length,
    FinishAndSilence,
    Cut,
    Malformed,
    ErrorObject,
    Panic,
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let text = "[a-z\"\\\\\u{e9}\u{1F600}\n ]{1,6}";
    prop_oneof![
        8 => text.prop_map(Chunk::Text),
        2 => text.prop_map(Chunk::Reasoning),
        1 => text.prop_map(Chunk::Odd),
        2 => (0u8..3, text).prop_map(|(index, piece)| Chunk::Call { index, piece }),
        1 => Just(Chunk::Nothing),
        1 => Just(Chunk::Usage),
        1 => Just(Chunk::Comment),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        4 => Just(How::Stop),
        1 => Just(How::Length),
        1 => Just(How::FinishAndSilence),
        1 => Just(How::Cut),
        1 => Just(How::Malformed),
        1 => Just(How::ErrorObject),
        1 => Just(How::Panic),
    ];
    let dialect = prop_oneof![
        Just(Dialect::Responses),
        Just(Dialect::Chat),
        Just(Dialect::Text)
    ];
    let which = any::<usize>;
    prop_oneof![
        2 => (any::<bool>(), any::<bool>()).prop_map(|(background, store)| Step::Start { background, store }),
        8 => (which(), prop::collection::vec(chunk(), 1..20)).prop_map(|(subject, chunks)| Step::Produce { subject, chunks }),
        1 => (which(), how).prop_map(|(subject, how)| Step::End { subject, how }),
        1 => which().prop_map(|subject| Step::Cancel { subject }),
        1 => which().prop_map(|subject| Step::Delete { subject }),
        4 => (which(), dialect, which()).prop_map(|(subject, dialect, at)| Step::Attach { subject, dialect, at }),
        4 => which().prop_map(|follower| Step::ReadPiece { follower }),
        4 => which().prop_map(|follower| Step::ReadAll { follower }),
        2 => which().prop_map(|follower| Step::Detach { follower }),
        4 => (which(), which()).prop_map(|(follower, at)| Step::Resume { follower, at }),
        8 => Just(Step::Settle),
        2 => (1u64..40).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// A generation, and what its upstream has sent so far.
struct Subject {
    generation: Arc<Generation>,
    call: Call,
    payloads: Vec<String>,
    over: bool,
}

/// One client over all its connections.
struct Follower {
    subject: usize,
    dialect: Dialect,
    from: u64,
    /// Frames kept from earlier connections.
    kept: Vec<Line>,
    reader: Option<Reader>,
    /// Whether it saw the end, or learned that the log is gone.
    end: Option<Result<(), SubscriptionError>>,
}

impl Follower {
    fn lines(&self) -> Vec<Line> {
        let mut lines = self.kept.clone();
        lines.extend(self.reader.iter().flat_map(Reader::lines));
        lines
    }

    fn disconnect(&mut self) {
        self.kept = self.lines();
        if let Some(reader) = self.reader.take() {
            self.end = self.end.or(reader.end());
        }
    }
}

struct World {
    test: TestEngine,
    subjects: Vec<Subject>,
    followers: Vec<Follower>,
}

fn pick(number: usize, of: usize) -> Option<usize> {
    number.checked_rem(of)
}

impl World {
    fn new() -> Self {
        let test = TestEngine::new(EngineOptions {
            retention: Retention {
                events: Duration::from_secs(60),
                responses: Duration::from_secs(120),
                max_memory: 160 * 1024,
                max_open: 64,
            },
            limits: LogLimits {
                bytes: 6 * 1024,
                events: 400,
            },
            ..EngineOptions::default()
        });
        Self {
            test,
            subjects: Vec::new(),
            followers: Vec::new(),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Start { background, store } => {
                if self.subjects.len() >= 4 {
                    return;
                }
                let started = self.test.start(&format!(
                    r#"{{"input":"hi","background":{background},"store":{store}}}"#
                ));
                let call = self.test.upstream.call().await;
                let generation = started.guard.generation().clone();
                self.subjects.push(Subject {
                    generation,
                    call,
                    payloads: Vec::new(),
                    over: false,
                });
                let subject = self.subjects.len() - 1;
                let reader = Reader::new(started.guard, 0, Dialect::Responses);
                self.follow(subject, Dialect::Responses, 0, reader);
            }
            Step::Produce { subject, chunks } => {
                if let Some(at) = pick(subject, self.subjects.len()) {
                    self.subjects[at].produce(chunks);
                }
            }
            Step::End { subject, how } => {
                if let Some(at) = pick(subject, self.subjects.len()) {
                    self.subjects[at].end(how);
                }
            }
            Step::Cancel { subject } => {
                if let Some(at) = pick(subject, self.subjects.len()) {
                    self.subjects[at].generation.cancel();
                }
            }
            Step::Delete { subject } => {
                if let Some(at) = pick(subject, self.subjects.len()) {
                    let generation = &self.subjects[at].generation;
                    let deleted = self.test.engine.delete(generation).now_or_never();
                    assert!(matches!(deleted, Some(Ok(()))));
                }
            }
            Step::Attach {
                subject,
                dialect,
                at,
            } => self.attach(subject, dialect, at),
            Step::ReadPiece { follower } => {
                if let Some(reader) = self.connected(follower) {
                    reader.read_piece();
                }
            }
            Step::ReadAll { follower } => {
                if let Some(reader) = self.connected(follower) {
                    reader.read_now();
                }
            }
            Step::Detach { follower } => {
                if let Some(at) = pick(follower, self.followers.len()) {
                    self.followers[at].disconnect();
                }
            }
            Step::Resume { follower, at } => {
                if let Some(index) = pick(follower, self.followers.len()) {
                    self.resume(index, Some(at));
                }
            }
            Step::Settle => settle().await,
            Step::Wait { seconds } => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                self.test.engine.registry().sweep(Instant::now());
            }
        }
        self.check_accounts();
    }

    fn connected(&mut self, follower: usize) -> Option<&mut Reader> {
        let at = pick(follower, self.followers.len())?;
        self.followers[at].reader.as_mut()
    }

    fn attach(&mut self, subject: usize, dialect: Dialect, at: usize) {
        let Some(index) = pick(subject, self.subjects.len()) else {
            return;
        };
        let generation = &self.subjects[index].generation;
        let Ok(tail) = generation.tail() else { return };
        // The text dialect has no numbers, so it is read from the start.
        let from = if dialect == Dialect::Text {
            0
        } else {
            pick(at, tail.next.0 as usize + 1).unwrap_or(0) as u64
        };
        let reader = Reader::new(generation.attach(), from, dialect);
        self.follow(index, dialect, from, reader);
    }

    fn follow(&mut self, subject: usize, dialect: Dialect, from: u64, reader: Reader) {
        if self.followers.len() < 24 {
            self.followers.push(Follower {
                subject,
                dialect,
                from,
                kept: Vec::new(),
                reader: Some(reader),
                end: None,
            });
        }
    }

    /// Detaches the reader, forgets the frames after some position, and resumes there.
    fn resume(&mut self, index: usize, at: Option<usize>) {
        let follower = &mut self.followers[index];
        if follower.dialect == Dialect::Text {
            return;
        }
        follower.disconnect();
        follower.end = None;
        let after = match at {
            Some(at) => pick(at, follower.kept.len()).map(|at| follower.kept[at].seq),
            None => follower.kept.last().map(|line| line.seq),
        };
        follower
            .kept
            .retain(|line| after.is_some_and(|after| line.seq <= after));
        let after = after.or(follower.from.checked_sub(1));
        let generation = &self.subjects[follower.subject].generation;
        let (guard, kind) = (generation.attach(), ReaderKind::Sdk);
        match self.test.engine.read(guard, after, kind) {
            Ok(Resumption::Read { guard, from }) => {
                follower.reader = Some(Reader::new(guard, from.0, follower.dialect))
            }
            Ok(Resumption::NothingLeft { .. }) => follower.end = Some(Ok(())),
            Err(error) if error.is(ErrorCode::PositionGone) => {
                follower.end = Some(Err(SubscriptionError::Expired));
            }
            other => panic!("a position that was seen ({after:?}) gives {other:?}"),
        }
    }

    fn check_accounts(&self) {
        let weights: usize = self
            .subjects
            .iter()
            .map(|subject| subject.generation.log().memory_size())
            .sum();
        assert_eq!(
            self.test.account.held(AccountKind::Logs),
            weights,
            "the account is not what the logs weigh"
        );
        assert!(self.test.engine.registry().used() >= weights);
    }

    /// Ends everything, reads every follower to the end, and compares.
    async fn finish(mut self) {
        for subject in &mut self.subjects {
            subject.end(How::Cut);
        }
        for subject in &self.subjects {
            subject.generation.ended().await;
        }
        settle().await;
        for index in 0..self.followers.len() {
            if self.followers[index].reader.is_none() && self.followers[index].end.is_none() {
                self.resume(index, None);
            }
            let follower = &mut self.followers[index];
            if let Some(reader) = &mut follower.reader {
                let _ = reader.read_to_end().await;
            }
            follower.disconnect();
        }
        for index in 0..self.subjects.len() {
            self.compare(index);
        }
        self.remove_everything().await;
    }

    fn compare(&self, index: usize) {
        let subject = &self.subjects[index];
        // The complete stream, if the log is still there.
        let audit = subject
            .generation
            .tail()
            .is_ok()
            .then(|| Audit::of(&subject.generation));
        if let Some(audit) = &audit {
            subject.check_payloads(audit);
        }
        let mut seen: BTreeMap<(Numbered, u64), Vec<Line>> = BTreeMap::new();
        for follower in self
            .followers
            .iter()
            .filter(|follower| follower.subject == index)
        {
            let lines = follower.lines();
            match follower.dialect {
                Dialect::Text => {
                    let text: String = lines.iter().map(|line| line.data.as_str()).collect();
                    if let Some(audit) = &audit {
                        // A detached reader has a prefix.
                        assert!(
                            audit.text.starts_with(&text)
                                && (follower.end.is_none() || audit.text == text),
                            "{text:?}, not {:?}",
                            audit.text
                        );
                    }
                    continue;
                }
                Dialect::Responses => {
                    for (place, line) in lines.iter().enumerate() {
                        assert_eq!(
                            line.seq,
                            follower.from + place as u64,
                            "a number is missing or repeated"
                        );
                    }
                }
                Dialect::Chat => {
                    assert!(lines.iter().all(|line| line.seq >= follower.from));
                    assert!(lines.is_sorted_by_key(|line| line.seq), "out of order");
                }
            }
            if let (Some(audit), Some(Ok(()))) = (&audit, follower.end) {
                let all = read_all(&subject.generation, follower.dialect);
                let expected: Vec<Line> = all
                    .into_iter()
                    .filter(|line| line.seq >= follower.from)
                    .collect();
                assert_eq!(
                    lines,
                    expected,
                    "a {:?} reader from {} of {} events",
                    follower.dialect,
                    follower.from,
                    audit.events.len()
                );
            }
            assert!(
                audit.is_none() || follower.end == Some(Ok(())),
                "{:?} although the log is there",
                follower.end
            );
            // Readers agree on every event that both have seen, also after the log expired.
            let mut by_seq: BTreeMap<u64, Vec<Line>> = BTreeMap::new();
            for line in lines {
                by_seq.entry(line.seq).or_default().push(line);
            }
            for (seq, frames) in by_seq {
                let known = seen
                    .entry((Numbered::of(follower.dialect), seq))
                    .or_insert_with(|| frames.clone());
                assert_eq!(*known, frames, "two readers saw different frames at {seq}");
            }
        }
    }

    async fn remove_everything(self) {
        let Self {
            test,
            subjects,
            followers,
        } = self;
        drop(followers);
        // A finished body is drained for up to 100 ms.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(
            test.engine.registry().open(),
            0,
            "a generation that ended still counts as open"
        );
        tokio::time::sleep(Duration::from_secs(121)).await;
        test.engine.registry().sweep(Instant::now());
        assert_eq!(test.engine.registry().len(), 0);
        drop(subjects);
        settle().await;
        assert_eq!(
            test.account.committed(),
            0,
            "memory is still counted after everything is gone"
        );
    }
}

/// The dialects whose events have numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Numbered {
    Responses,
    Chat,
}

impl Numbered {
    fn of(dialect: Dialect) -> Self {
        if dialect == Dialect::Chat {
            Self::Chat
        } else {
            Self::Responses
        }
    }
}

fn read_all(generation: &Arc<Generation>, dialect: Dialect) -> Vec<Line> {
    let mut reader = Reader::new(generation.attach(), 0, dialect);
    reader.read_now();
    reader.lines()
}

impl Subject {
    fn send(&mut self, payload: String) {
        self.call.data(&payload);
        self.payloads.push(payload);
    }

    fn delta(&mut self, delta: &str, more: &str) {
        self.send(format!(
            r#"{{"id":"c","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]{more}}}"#
        ));
    }

    fn produce(&mut self, chunks: Vec<Chunk>) {
        if self.over {
            return;
        }
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        for chunk in chunks {
            match chunk {
                Chunk::Text(text) => self.delta(&format!(r#"{{"content":{}}}"#, quoted(&text)), ""),
                Chunk::Reasoning(text) => {
                    self.delta(&format!(r#"{{"reasoning_content":{}}}"#, quoted(&text)), "")
                }
                Chunk::Odd(text) => self.delta(
                    &format!(r#"{{"content":{}}}"#, quoted(&text)),
                    &format!(r#","odd":{}"#, self.payloads.len()),
                ),
                Chunk::Call { index, piece } => {
                    let head = format!(r#""index":{index},"id":"call_{index}","type":"function""#);
                    let call = format!(
                        r#"{{{head},"function":{{"name":"f","arguments":{}}}}}"#,
                        quoted(&piece)
                    );
                    self.delta(&format!(r#"{{"tool_calls":[{call}]}}"#), "");
                }
                Chunk::Nothing => self.delta("{}", ""),
                // Not requested, so chat readers do not get it.
                Chunk::Usage => {
                    self.call.data(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#);
                }
                Chunk::Comment => {
                    self.call.bytes(": ping\n\n");
                }
            }
        }
    }

    fn end(&mut self, how: How) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let finish = |reason: &str| {
            format!(
                r#"{{"id":"c","choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#
            )
        };
        match how {
            How::Stop | How::Length => {
                self.send(finish(if matches!(how, How::Stop) {
                    "stop"
                } else {
                    "length"
                }));
                self.call.done().end(BodyEnd::Clean);
            }
            How::FinishAndSilence => self.send(finish("stop")),
            How::Cut => {
                self.call.end(BodyEnd::Broken);
            }
            How::Malformed => {
                self.call.data("{");
            }
            How::ErrorObject => self.send(r#"{"error":{"message":"no","code":"nope"}}"#.to_owned()),
            How::Panic => {
                self.call.panic();
            }
        }
    }

    /// A chat client has the chunks that were sent, as far as they were read, and the end.
    fn check_payloads(&self, audit: &Audit) {
        let last = audit.chat.last().expect("there is a last frame");
        let sent = if self.payloads.contains(last) {
            audit.chat.as_slice()
        } else {
            &audit.chat[..audit.chat.len() - 1]
        };
        assert!(
            self.payloads.starts_with(sent),
            "{sent:?} is not what was sent: {:?}",
            self.payloads
        );
        if matches!(
            audit.object["status"].as_str(),
            Some("completed" | "incomplete")
        ) {
            assert_eq!((sent.len(), last.as_str()), (self.payloads.len(), "[DONE]"));
        } else {
            assert!(last.contains(r#""error""#), "{last}");
        }
        let mut text = String::new();
        for payload in sent {
            let chunk: serde_json::Value = serde_json::from_str(payload).unwrap();
            text.push_str(
                chunk["choices"][0]["delta"]["content"]
                    .as_str()
                    .unwrap_or_default(),
            );
        }
        assert_eq!(audit.text, text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn readers_receive_every_event_after_their_position(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            world.step(Step::Start { background: false, store: true }).await;
            for step in steps {
                world.step(step).await;
            }
            world.finish().await;
        });
    }
}
