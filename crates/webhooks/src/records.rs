//! Records of deliveries that outlive the process.

use std::fmt;

use futures::future::BoxFuture;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::id::{GenerationId, Owner, random_id};

use crate::delivery::Reason;
use crate::endpoint::Endpoint;
use crate::event::Event;
use crate::signing_key::SigningKey;

/// Keeps small records beyond the process: one for each webhook that is owed, and one for each dead
/// letter.
pub trait DeliveryRecords: Send + Sync + fmt::Debug {
    /// Sets the record of this key, or removes it if it has no value. Must not block.
    fn set(&self, key: &str, value: Option<Vec<u8>>);

    /// Waits until what is set under this key by now outlives the process. Returns at once where
    /// records never do.
    fn kept<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ()>;

    /// Returns the record of this key.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Returns all records by key.
    fn list(&self) -> Vec<(String, Vec<u8>)>;
}

/// A webhook that is owed once its response has ended.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    /// The id of the event, which is fixed before the response ends.
    pub(crate) event: String,
    pub(crate) owner: Owner,
    pub(crate) endpoint: Endpoint,
    /// The secret, if it is not the common one.
    pub(crate) own_key: Option<SigningKey>,
}

/// A record that was read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) owed: Owed,
    pub(crate) response: GenerationId,
    /// The event, once the response has ended.
    pub(crate) event: Option<Event>,
    /// Why it was given up, and after how many attempts.
    pub(crate) dead: Option<(Reason, u32)>,
    /// Whether its 410 still disables the endpoint.
    pub(crate) disables: bool,
}

/// Returns the record of a delivery that is given up; without a reason, that of one that is tried
/// again.
pub(crate) fn with_end(record: &[u8], dead: Option<(Reason, u32)>) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(record).ok()?;
    let members = value.as_object_mut()?;
    members.insert(
        "dead".to_owned(),
        dead.map(|(reason, _)| reason.as_str()).into(),
    );
    members.insert(
        "attempts".to_owned(),
        dead.map(|(_, attempts)| attempts).into(),
    );
    // A 410 disables the endpoint again.
    members.remove("enabled");
    Some(value.to_string().into_bytes())
}

/// Returns the record of a dead letter whose endpoint was enabled again.
pub(crate) fn with_enabled(record: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(record).ok()?;
    value
        .as_object_mut()?
        .insert("enabled".to_owned(), true.into());
    Some(value.to_string().into_bytes())
}

// === impl Owed ===

impl Owed {
    pub(crate) fn new(owner: Owner, endpoint: Endpoint, own_key: Option<SigningKey>) -> Self {
        Self {
            event: random_id("evt_"),
            owner,
            endpoint,
            own_key,
        }
    }

    /// Returns the event of the generation's end.
    pub(crate) fn event_of(&self, generation: &Generation) -> Event {
        Event {
            id: self.event.clone(),
            ..Event::of(generation)
        }
    }

    /// Returns the record's bytes. They hold the request's own secret.
    pub(crate) fn encode(&self, response: &GenerationId, event: Option<&Event>) -> Vec<u8> {
        let owner = match &self.owner {
            Owner::Anonymous => None,
            Owner::Named(name) => Some(&**name),
        };
        let secret = self.own_key.as_ref().map(SigningKey::to_secret);
        let record = json!({
            "response": response.as_str(),
            "owner": owner,
            "url": self.endpoint.url().as_str(),
            "secret": secret.as_ref().map(|secret| secret.expose_secret()),
            "kind": event.map(|event| event.kind),
            "created_at": event.map(|event| event.created_at),
            "data": event.and_then(|event| event.data.as_ref()),
        });
        record.to_string().into_bytes()
    }
}

// === impl Record ===

impl Record {
    /// Returns the record of a response that has not ended yet.
    pub(crate) fn unfinished(owed: Owed, response: GenerationId) -> Self {
        Self {
            owed,
            response,
            event: None,
            dead: None,
            disables: false,
        }
    }

    /// Reads a record. `common` signs for requests without their own secret. `None` if it is damaged,
    /// or needs a common secret that is not configured any more.
    pub(crate) fn decode(
        key: &str,
        value: &[u8],
        common: Option<&SigningKey>,
        allow_private: bool,
    ) -> Option<Self> {
        let value: Value = serde_json::from_slice(value).ok()?;
        let text = |name: &str| value[name].as_str();
        let own_key = match text("secret") {
            Some(secret) => Some(SigningKey::parse(secret).ok()?),
            None => None,
        };
        let signing = own_key.as_ref().or(common)?.clone();
        let url = crate::endpoint::parse_url(text("url")?, allow_private).ok()?;
        let response: GenerationId = text("response")?.parse().ok()?;
        let owner = text("owner").map_or(Owner::Anonymous, |name| Owner::Named(name.into()));
        let event = text("kind").and_then(|kind| {
            Some(Event {
                id: key.to_owned(),
                kind: Event::kind_of(kind)?,
                created_at: value["created_at"].as_u64()?,
                response: response.clone(),
                data: value["data"].as_object().cloned(),
            })
        });
        let dead = text("dead").and_then(Reason::parse).map(|reason| {
            let attempts = value["attempts"].as_u64().unwrap_or_default();
            (reason, u32::try_from(attempts).unwrap_or(u32::MAX))
        });
        let owed = Owed {
            event: key.to_owned(),
            owner,
            endpoint: Endpoint::new(url, signing),
            own_key,
        };
        Some(Self {
            owed,
            response,
            event,
            disables: matches!(dead, Some((Reason::Gone, _))) && value["enabled"] != true,
            dead,
        })
    }
}
