//! Requests that start generations.

use tokenwire_core::engine::{Caller, StartRequest};
use tokenwire_core::model::id::Seq;
use tokenwire_core::request::StreamRequest;
use tokenwire_testkit::simulation::{Dice, Reading, View};

use crate::connection::Session;

/// The number of idempotency keys that the clients share.
const KEYS: u64 = 4;

impl Session {
    /// Starts a generation and reads it.
    pub(crate) async fn start(&self) {
        let (body, marker, key) = self.request();
        let request = StreamRequest::parse(body.as_bytes()).expect("the request is valid");
        let request = StartRequest::new(request, Caller::default(), "/v1/streams")
            .with_idempotency_key(key.clone());
        let started = match self.process.engine.start(request).await {
            Ok(started) => started,
            Err(error) => {
                self.note(format_args!("starts nothing: {:?}", error.code));
                return;
            }
        };
        let meta = started.guard.generation().meta().clone();
        let number = {
            let mut model = self.world.model.lock();
            match model.number(meta.id.as_str()) {
                Some(number) => number,
                // One of a client that was cut off before it heard of it.
                None => {
                    let process = self.world.process_of(&meta.id);
                    let number = model.started(&meta.id, &marker, process);
                    let known = &mut model.generations[number];
                    known.is_background = meta.background;
                    known.is_replicated = self.world.is_replicated(meta.background);
                    number
                }
            }
        };
        let fresh = started.fresh;
        self.note(format_args!(
            "starts {number} {} fresh={fresh} {body}",
            meta.id
        ));
        if fresh && key.is_some() {
            self.check_key(number, &marker);
        }
        let view = self.draw(View::draw);
        self.memory.lock().reading = Some(Reading::new(number, view));
        self.read(view, None, (started.guard, Seq(0))).await;
    }

    /// Draws a request: its body, its name, and its key.
    fn request(&self) -> (String, String, Option<String>) {
        let next = self.world.model.lock().next_request();
        let mut memory = self.memory.lock();
        let dice = &mut memory.dice;
        let key = dice
            .chance(25)
            .then(|| format!("key{}", dice.range(1..=KEYS)));
        let marker = key.clone().unwrap_or_else(|| format!("request{next}"));
        drop(memory);
        // What a key stands for is always the same.
        let mut drawn = Dice::new(self.world.seed(), &marker);
        let model = *drawn.pick(&["chat", "chat", "responses"]);
        let body = if drawn.chance(30) {
            format!(
                r##"{{"model":"{model}","messages":[{{"role":"user","content":"#{marker}#"}}],"stream":true}}"##
            )
        } else {
            let (background, store) = (drawn.chance(50), drawn.chance(70));
            let store = store || background;
            let webhook = if background {
                r#","webhook":{"url":"https://example.com/hook","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}"#
            } else {
                ""
            };
            format!(
                r##"{{"model":"{model}","input":"#{marker}#","stream":true,"background":{background},"store":{store}{webhook}}}"##
            )
        };
        (body, marker, key)
    }
}
