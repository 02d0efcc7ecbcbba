//! Conversations by reference: a turn holds its own items and the id of its predecessor.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokenwire_core::engine::{
    Engine, HistoryLimits, Retention, SharedEngine, StartRequest, Started,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_testkit::{Call, ScriptedUpstream, TestEngine, scripted_target, settle};
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(60 * 60);

struct World {
    shared: SharedEngine,
    engine: Engine,
    upstream: ScriptedUpstream,
}

impl World {
    fn new(limits: HistoryLimits) -> Self {
        let upstream = ScriptedUpstream::new(scripted_target(Api::Chat));
        let shared = Engine::builder()
            .retention(Retention {
                events: Duration::from_secs(600),
                responses: 24 * HOUR,
                max_memory: 1 << 30,
                max_open: 1 << 16,
            })
            .log_limits(LogLimits {
                bytes: 1 << 26,
                events: 1 << 24,
            })
            .history_limits(limits)
            .sweep_interval(None)
            .build();
        let engine = shared.engine(Arc::new(upstream.clone()));
        Self {
            shared,
            engine,
            upstream,
        }
    }

    async fn try_start(
        &self,
        input: &str,
        previous: Option<&GenerationId>,
    ) -> Result<Started, ApiError> {
        self.engine.start(request(input, previous)).await
    }

    /// Starts a turn and returns its upstream call.
    async fn begin(&self, input: &str, previous: Option<&GenerationId>) -> (Started, Call) {
        let started = self.try_start(input, previous).await.unwrap();
        (started, self.upstream.call().await)
    }

    /// Runs a turn to its end.
    async fn turn(&self, input: &str, previous: Option<&GenerationId>) -> Arc<Generation> {
        let (started, call) = self.begin(input, previous).await;
        complete(&call, &format!("answer to {:.20}", input));
        let generation = started.guard.generation().clone();
        generation.ended().await;
        // Its task has yet to notify the registry.
        settle().await;
        generation
    }

    async fn find(&self, id: &GenerationId) -> Result<Arc<Generation>, ApiError> {
        self.engine.find(id, &Owner::Anonymous).await
    }

    /// Lets time pass and drops what is due.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.shared.registry().sweep(Instant::now());
    }
}

fn request(input: &str, previous: Option<&GenerationId>) -> StartRequest {
    let mut body = json!({"input": input});
    if let Some(id) = previous {
        body["previous_response_id"] = id.as_str().into();
    }
    TestEngine::request(&body.to_string())
}

fn complete(call: &Call, text: &str) {
    call.token(text).finish("stop").done().end(BodyEnd::Clean);
}

fn id(generation: &Generation) -> &GenerationId {
    &generation.meta().id
}

fn assert_not_found(error: &ApiError, previous: &GenerationId) {
    assert!(error.is(ErrorCode::PreviousResponseNotFound), "{error:?}");
    assert_eq!(error.status, 404);
    assert_eq!(error.param.as_deref(), Some("previous_response_id"));
    let wording = format!("Previous response with id '{previous}' not found.");
    assert!(error.message.starts_with(&wording), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn chain_of_turns_holds_each_item_once() {
    const TURNS: usize = 12;
    const INPUT: usize = 3 * 1024 * 1024;
    let world = World::new(HistoryLimits::default());
    let text = "x".repeat(INPUT);
    let mut last: Option<Arc<Generation>> = None;
    let mut sent = 0;
    for turn in 1..=TURNS {
        let previous = last.as_deref().map(id);
        let (started, call) = world.begin(&text, previous).await;
        let generation = started.guard.generation().clone();
        sent = call.request().body.len();
        assert!(sent > turn * INPUT, "turn {turn} sends {sent} bytes");
        let size = generation.memory_size();
        assert!(size < INPUT + 64 * 1024, "turn {turn} holds {size} bytes");
        complete(&call, "yes");
        drop(call);
        generation.ended().await;
        settle().await;
        last = Some(generation);
    }
    assert!(sent > TURNS * INPUT);
    let used = world.shared.registry().used();
    assert!(
        (TURNS * INPUT..TURNS * (INPUT + 64 * 1024)).contains(&used),
        "{used} bytes are held"
    );
}

#[tokio::test(start_paused = true)]
async fn deleted_turn_ends_the_conversations_that_build_on_it() {
    let world = World::new(HistoryLimits::default());
    let first = world.turn("one", None).await;
    let second = world.turn("two", Some(id(&first))).await;
    let third = world.turn("three", Some(id(&second))).await;
    let fourth = world.turn("four", Some(id(&third))).await;
    world.engine.delete(&second).await.unwrap();

    let error = world
        .try_start("five", Some(id(&second)))
        .await
        .unwrap_err();
    assert_not_found(&error, id(&second));
    for later in [&third, &fourth] {
        let error = world.try_start("five", Some(id(later))).await.unwrap_err();
        assert_not_found(&error, id(later));
        assert!(error.message.contains(id(&second).as_str()));
        let error = world.engine.history(later).await.err().unwrap();
        assert!(error.is(ErrorCode::PreviousResponseNotFound), "{error:?}");
        // The object itself is still there.
        world.find(id(later)).await.unwrap();
    }
    // What lies before the deleted turn goes on.
    let (_, call) = world.begin("two again", Some(id(&first))).await;
    assert_eq!(call.body()["messages"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(start_paused = true)]
async fn turn_renews_the_retention_of_all_turns_before_it() {
    let world = World::new(HistoryLimits::default());
    let first = world.turn("one", None).await;
    let second = world.turn("two", Some(id(&first))).await;
    let other = world.turn("alone", None).await;
    world.pass(20 * HOUR).await;
    let (started, call) = world.begin("three", Some(id(&second))).await;
    let third = started.guard.generation().clone();
    // It renews them at its start, and once more at its end.
    world.pass(20 * HOUR).await;
    assert!(world.find(id(&other)).await.is_err(), "40 h after its end");
    complete(&call, "late");
    third.ended().await;
    settle().await;
    world.pass(23 * HOUR).await;
    let history = world.engine.history(&third).await.unwrap();
    assert_eq!(history.items().len(), 4);
    drop(history);
    world.pass(2 * HOUR).await;
    for turn in [&first, &second, &third] {
        assert!(world.find(id(turn)).await.is_err());
    }
    drop((first, second, other, third, started, call));
    assert_eq!(
        (
            world.shared.registry().len(),
            world.shared.registry().used()
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn memory_pressure_drops_renewed_turns_last() {
    let world = World::new(HistoryLimits::default());
    let first = world.turn("one", None).await;
    world.pass(Duration::from_secs(10)).await;
    let other = world.turn("alone", None).await;
    world.pass(Duration::from_secs(10)).await;
    let second = world.turn("two", Some(id(&first))).await;
    // The logs go first, then the objects, the renewed ones last.
    world.pass(HOUR).await;
    for turn in [&first, &other, &second] {
        assert!(turn.tail().is_err());
        world.find(id(turn)).await.unwrap();
    }
    world.pass(24 * HOUR - HOUR - Duration::from_secs(5)).await;
    assert!(world.find(id(&other)).await.is_err());
    for turn in [&first, &second] {
        world.find(id(turn)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn conversation_past_its_limits_is_refused() {
    let world = World::new(HistoryLimits {
        turns: 3,
        bytes: 10_000,
    });
    let mut last = world.turn("first", None).await;
    for turn in 1..3 {
        last = world.turn(&format!("turn {turn}"), Some(id(&last))).await;
    }
    last = world.turn("the last one", Some(id(&last))).await;
    let refused = |error: ApiError, id: &GenerationId| {
        assert!(error.is(ErrorCode::PreviousResponseUnusable), "{error:?}");
        assert_eq!(error.param.as_deref(), Some("previous_response_id"));
        assert!(error.message.contains(id.as_str()), "{error:?}");
        assert!(
            error.message.contains("3 turns or 10000 bytes"),
            "{error:?}"
        );
    };
    let error = world.try_start("more", Some(id(&last))).await.unwrap_err();
    refused(error, id(&last));

    let large = world.turn(&"x".repeat(9_000), None).await;
    let larger = world.turn(&"x".repeat(1_000), Some(id(&large))).await;
    let error = world
        .try_start("more", Some(id(&larger)))
        .await
        .unwrap_err();
    refused(error, id(&larger));
}

#[tokio::test(start_paused = true)]
async fn long_conversation_is_sent_in_order() {
    const TURNS: usize = 200;
    let world = World::new(HistoryLimits {
        turns: TURNS,
        ..HistoryLimits::default()
    });
    let mut last: Option<Arc<Generation>> = None;
    for turn in 0..TURNS {
        let previous = last.as_deref().map(id).cloned();
        last = Some(world.turn(&turn.to_string(), previous.as_ref()).await);
    }
    let last = last.unwrap();
    let (_, call) = world.begin("end", Some(id(&last))).await;
    let body = call.body();
    let asked: Vec<&Value> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .step_by(2)
        .map(|message| &message["content"])
        .collect();
    assert_eq!(asked.len(), TURNS + 1);
    assert_eq!((asked[0], asked[TURNS - 1]), (&json!("0"), &json!("199")));
}

#[tokio::test(start_paused = true)]
async fn reasoning_objects_without_text_go_back_with_their_call() {
    let world = World::new(HistoryLimits::default());
    let (started, call) = world.begin("the weather?", None).await;
    call.answer(Default::default());
    let details = json!([{"type": "reasoning.encrypted", "id": "r1", "data": "c2VjcmV0"}]);
    let tool = json!([{"index": 0, "id": "call_1", "type": "function",
        "function": {"name": "weather", "arguments": "{}"}}]);
    for delta in [
        json!({"reasoning_details": details}),
        json!({"reasoning_details": [], "tool_calls": tool}),
    ] {
        call.data(&json!({"choices": [{"index": 0, "delta": delta}]}).to_string());
    }
    call.finish("tool_calls").done().end(BodyEnd::Clean);
    let generation = started.guard.generation().clone();
    generation.ended().await;
    let object: Value = serde_json::from_slice(&generation.response_json()).unwrap();
    let kinds: Vec<&Value> = object["output"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["type"])
        .collect();
    assert_eq!(kinds, ["reasoning", "function_call"]);
    assert!(
        !object.to_string().contains("c2VjcmV0"),
        "clients do not see it"
    );

    let output = json!([{"type": "function_call_output", "call_id": "call_1", "output": "sunny"}]);
    let next = json!({"input": output, "previous_response_id": generation.meta().id.as_str()});
    let next = TestEngine::request(&next.to_string());
    let _started = world.engine.start(next).await.unwrap();
    let body = world.upstream.call().await.body();
    let assistant = &body["messages"][1];
    assert_eq!(assistant["role"], "assistant", "{body}");
    assert_eq!(assistant["reasoning_details"], details, "{body}");
}
