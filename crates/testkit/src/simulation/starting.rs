//! Simulated requests that start generations.

use tokenwire_core::engine::{Caller, StartRequest};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::snapshot::Status;
use tokenwire_core::request::StreamRequest;

use super::dice::Dice;
use super::model::Deletion;
use super::reading::Reading;
use super::session::Session;
use super::view::View;

/// The number of idempotency keys that the clients share.
const KEYS: u64 = 4;

impl Session {
    /// Starts a generation and reads it.
    pub(super) async fn start(&self) {
        let (body, marker, key) = self.request();
        let request = StreamRequest::parse(body.as_bytes()).expect("the request is valid");
        let request = StartRequest::new(request, Caller::default(), "/v1/streams")
            .with_idempotency_key(key.clone());
        let started = match self.process.start(request).await {
            Ok(started) => started,
            Err(error) => {
                self.note(format_args!("starts nothing: {:?}", error.code));
                return;
            }
        };
        let id = started.guard.generation().meta().id.clone();
        let number = if started.fresh {
            if let Some(earlier) = self.earlier(&marker).filter(|_| key.is_some()) {
                self.fail(format_args!(
                    "the key of generation {earlier} starts another"
                ));
            }
            self.world.model.lock().started(&id, &marker)
        } else {
            let number = self.world.model.lock().number(&id);
            number.expect("a repeated key attaches to a known generation")
        };
        self.note(format_args!(
            "starts {number} {id} fresh={} {body}",
            started.fresh
        ));
        let view = self.draw(View::draw);
        if self.draw(|dice| dice.chance(10)) {
            // It never reads.
            self.world.model.lock().generations[number].silent += 1;
            return;
        }
        let from = (started.guard, Seq(0));
        self.read(Reading::new(number, view), view, None, from)
            .await;
    }

    /// Draws a request: its body, its name, and its key.
    fn request(&self) -> (String, String, Option<String>) {
        let mut client = self.client.lock();
        let number = client.number;
        let dice = &mut client.dice;
        let key = dice
            .chance(25)
            .then(|| format!("key{}", dice.range(1..=KEYS)));
        let marker = match &key {
            Some(key) => key.clone(),
            None => format!("c{number}-{}", self.world.next_request()),
        };
        // What a key stands for is always the same.
        let mut drawn = Dice::new(self.world.seed, &marker);
        let model = *drawn.pick(&["chat", "chat", "responses"]);
        let body = if drawn.chance(50) {
            let usage = drawn.chance(50);
            format!(
                r##"{{"model":"{model}","messages":[{{"role":"user","content":"#{marker}#"}}],"stream":true,"stream_options":{{"include_usage":{usage}}}}}"##
            )
        } else {
            let (background, store) = (drawn.chance(20), drawn.chance(70));
            let store = store || background;
            format!(
                r##"{{"model":"{model}","input":"#{marker}#","stream":true,"background":{background},"store":{store}}}"##
            )
        };
        (body, marker, key)
    }

    /// Returns the generation of this process that a key must still stand for.
    fn earlier(&self, marker: &str) -> Option<usize> {
        let model = self.world.model.lock();
        let mut earlier = model.generations.iter().enumerate().rev();
        let (number, known) = earlier.find(|(_, known)| known.marker == marker)?;
        let of_process = known.process == model.process && known.deletion == Deletion::None;
        if !of_process || self.world.plan.forgets {
            return None;
        }
        let generation = self.process.find_local(&known.id)?;
        // A generation that failed before its upstream sent anything releases its key.
        let failed_early = generation.status() == Status::Failed && !model.has_begun(number);
        (!failed_early).then_some(number)
    }
}
