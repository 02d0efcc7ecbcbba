//! The input of a request, before it is translated: references become the items that they name, and
//! reasoning becomes what it was when it was kept.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::directory::Part;
use super::{Engine, SessionResponses, StartRequest};
use crate::generation::Generation;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::{GenerationId, Owner};
use crate::model::include::{ENCRYPTED, PRIVATE, without};
use crate::model::json::{Members, raw_value};
use crate::model::secret::Secret;
use crate::request::ResponsesRequest;

/// Digits of an item's number at the end of its id.
const NUMBER: usize = 4;

/// The kept items of the generations that one request names.
struct Kept<'a> {
    engine: &'a Engine,
    owner: &'a Owner,
    session: Option<&'a SessionResponses>,
    generations: HashMap<GenerationId, Option<KeptGeneration>>,
    /// Bytes of all items.
    bytes: usize,
}

struct KeptGeneration {
    generation: Arc<Generation>,
    items: HashMap<String, Box<RawValue>>,
}

/// What a client's item needs before it is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// It names another item.
    Reference,
    /// The upstream knows it by what was kept beside it.
    Origin,
    /// It has members that are the gateway's.
    Cleaning,
}

impl Engine {
    /// Returns the request with its references resolved and its reasoning as it was kept; `None` if
    /// its input needs neither. Items of the history need no resolving.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] for a reference to an item that is not kept, with OpenAI's wording.
    pub(super) async fn resolve(
        &self,
        responses: &ResponsesRequest,
        history: &[&RawValue],
        request: &StartRequest,
    ) -> Result<Option<ResponsesRequest>, ApiError> {
        let input = responses.raw_input();
        let needs: Vec<Need> = input
            .iter()
            .map(|item| read(item).map_or(Need::Nothing, |item| Need::of(&item)))
            .collect();
        if needs.iter().all(|need| *need == Need::Nothing) {
            return Ok(None);
        }
        let mut kept = Kept {
            engine: self,
            owner: &request.owner,
            session: request.session.as_ref(),
            generations: HashMap::new(),
            bytes: 0,
        };
        let mut known: Option<Vec<String>> = None;
        let mut items: Vec<Box<RawValue>> = Vec::with_capacity(input.len());
        for (item, need) in input.iter().zip(needs) {
            let Some(members) = read(item) else {
                items.push((*item).to_owned());
                continue;
            };
            let id = members.text("id").unwrap_or_default();
            match need {
                Need::Nothing => items.push((*item).to_owned()),
                Need::Cleaning => items.push(cleaned(&members)),
                Need::Reference => {
                    let known = known.get_or_insert_with(|| ids(history));
                    if known.iter().any(|known| *known == id) {
                        continue;
                    }
                    let found = kept.find(&id, None).await?;
                    items.push(found.ok_or_else(|| no_item(&id))?);
                }
                Need::Origin => {
                    let content = members.text(ENCRYPTED);
                    // A store that is away must not stop a request that can do without.
                    let found = kept.find(&id, content.as_deref()).await;
                    items.push(match found {
                        Ok(Some(found)) => found,
                        _ => cleaned(&members),
                    });
                }
            }
        }
        let items: Vec<&RawValue> = items.iter().map(|item| &**item).collect();
        responses.with_input(&items).map(Some)
    }

    /// Returns the request with sealed reasoning opened; `None` if it has none. What does not open is
    /// used by its text, if it has any.
    pub(super) fn unseal(
        &self,
        responses: &ResponsesRequest,
        owner: &Owner,
        upstream: &str,
    ) -> Result<Option<ResponsesRequest>, ApiError> {
        let input = responses.raw_input();
        let mut opened = Vec::new();
        let mut items: Vec<Option<Box<RawValue>>> = Vec::with_capacity(input.len());
        for item in &input {
            let members: Members<'_> = serde_json::from_str(item.get()).unwrap_or_default();
            let content = members.text(ENCRYPTED);
            match content.filter(|content| Secret::is_sealed(content)) {
                Some(content) => {
                    let text = self.open_sealed(&members, &content, owner, upstream);
                    opened.push(items.len());
                    items.push(text);
                }
                None => items.push(None),
            }
        }
        if opened.is_empty() {
            return Ok(None);
        }
        let items: Vec<&RawValue> = input
            .iter()
            .zip(&items)
            .enumerate()
            .filter_map(|(at, (item, text))| match text {
                Some(text) => Some(&**text),
                None => (!opened.contains(&at)).then_some(*item),
            })
            .collect();
        responses.with_input(&items).map(Some)
    }

    /// Returns sealed reasoning in the form in which it is kept. `None` if nothing of it is left.
    fn open_sealed(
        &self,
        item: &Members<'_>,
        content: &str,
        owner: &Owner,
        upstream: &str,
    ) -> Option<Box<RawValue>> {
        let Some(opened) = self.secret.open(owner, content) else {
            tracing::debug!("sealed reasoning of another key or owner is dropped");
            return has_text(item).then(|| cleaned(item));
        };
        let id = item.get("id").map_or(r#""rs_""#, |id| id.get());
        // What another upstream signed is of no use here, but its text is.
        let private = if opened.upstream == upstream {
            opened.private.as_str()
        } else {
            "{}"
        };
        let text = &opened.text;
        Some(raw_value(format!(
            r#"{{"type":"reasoning","id":{id},"summary":[],"content":[{{"type":"reasoning_text","text":"{text}"}}],"{PRIVATE}":{private}}}"#
        )))
    }
}

impl Need {
    fn of(item: &Members<'_>) -> Self {
        let kind = item.text("type");
        let kind = kind.as_deref();
        let id = item.text("id");
        if kind == Some("item_reference") || (kind.is_none() && item.get("role").is_none()) {
            return match id {
                Some(_) => Self::Reference,
                None => Self::Nothing,
            };
        }
        let plain = matches!(
            kind,
            None | Some(
                "message"
                    | "function_call"
                    | "function_call_output"
                    | "custom_tool_call"
                    | "custom_tool_call_output"
            )
        );
        if !plain && id.is_some_and(|id| !responses_of(&id).is_empty()) {
            Self::Origin
        } else if item.get(PRIVATE).is_some() {
            Self::Cleaning
        } else {
            Self::Nothing
        }
    }
}

impl Kept<'_> {
    /// Returns a kept item. `content` is the encrypted content that the client holds of it: it proves
    /// that the item was shown, also where its response is not stored.
    async fn find(
        &mut self,
        id: &str,
        content: Option<&str>,
    ) -> Result<Option<Box<RawValue>>, ApiError> {
        for response in responses_of(id) {
            if !self.generations.contains_key(&response) {
                let generation = self.open(&response).await?;
                self.generations.insert(response.clone(), generation);
            }
            let Some(Some(known)) = self.generations.get(&response) else {
                continue;
            };
            let Some(item) = known.items.get(id) else {
                continue;
            };
            let meta = known.generation.meta();
            let own = || self.session.is_some_and(|own| own.contains(&meta.id));
            if meta.store || own() || content.is_some_and(|content| holds(item, content)) {
                return Ok(Some(item.clone()));
            }
        }
        Ok(None)
    }

    async fn open(&mut self, id: &GenerationId) -> Result<Option<KeptGeneration>, ApiError> {
        let directory = &self.engine.registry.directory;
        let located = directory.lookup(id, self.owner, Part::Object).await?;
        let found = self.engine.bring(id, self.owner, located).await?;
        let generation = found.here();
        let Some(generation) = generation else {
            return Ok(None);
        };
        let output: Vec<Box<RawValue>> =
            serde_json::from_slice(&generation.output_json()).unwrap_or_default();
        self.bytes += output.iter().map(|item| item.get().len()).sum::<usize>();
        if self.bytes > self.engine.history_limits.bytes {
            let message =
                "The items that the input refers to are larger than the limit on a conversation.";
            return Err(ApiError::new(ErrorCode::InvalidValue, message).param("input"));
        }
        directory.renew_chain(id, tokio::time::Instant::now());
        let items = generation.header().input.iter().cloned().chain(output);
        let items = items
            .filter_map(|item| Some((id_of(&item)?, item)))
            .collect();
        Ok(Some(KeptGeneration { generation, items }))
    }
}

/// The responses that an item of this id can be of: `msg_<response>0003` is an item of the output,
/// `msg_<response>i0003` one of the input.
fn responses_of(id: &str) -> Vec<GenerationId> {
    let Some((_, name)) = id.rsplit_once('_') else {
        return Vec::new();
    };
    let Some((response, number)) = name.split_at_checked(name.len().saturating_sub(NUMBER)) else {
        return Vec::new();
    };
    if number.len() < NUMBER || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    [Some(response), response.strip_suffix('i')]
        .into_iter()
        .flatten()
        .filter_map(|response| format!("resp_{response}").parse().ok())
        .collect()
}

/// Whether the id has the form of the gateway's own.
pub(super) fn is_ours(id: &str) -> bool {
    !responses_of(id).is_empty()
}

fn read(item: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(item.get()).ok()
}

fn id_of(item: &RawValue) -> Option<String> {
    Some(read(item)?.text("id")?.into_owned())
}

fn ids(items: &[&RawValue]) -> Vec<String> {
    items.iter().filter_map(|item| id_of(item)).collect()
}

/// Whether the item has this encrypted content, as it is or sealed.
fn holds(item: &RawValue, content: &str) -> bool {
    let members: Members<'_> = serde_json::from_str(item.get()).unwrap_or_default();
    let sealed = members.object(PRIVATE);
    let sealed = sealed.as_ref().and_then(|private| private.text("sealed"));
    members.text(ENCRYPTED).or(sealed).as_deref() == Some(content)
}

/// Returns a client's item without members that are the gateway's.
fn cleaned(item: &Members<'_>) -> Box<RawValue> {
    let sealed = item
        .text(ENCRYPTED)
        .is_some_and(|text| Secret::is_sealed(&text));
    raw_value(without(item, |name| {
        name == PRIVATE || (name == ENCRYPTED && sealed && has_text(item))
    }))
}

/// Whether reasoning has text that is not encrypted.
pub(super) fn has_text(item: &Members<'_>) -> bool {
    ["content", "summary"].iter().any(|list| {
        let parts = item.objects(list);
        parts
            .iter()
            .any(|part| part.text("text").is_some_and(|text| !text.is_empty()))
    })
}

fn no_item(id: &str) -> ApiError {
    let shown: String = id.chars().take(64).collect();
    let message = format!("Item with id '{shown}' not found.");
    let mut error = ApiError::new(ErrorCode::NotFound, message).param("input");
    error.code = None;
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, expected: &[&str]) {
        let found = responses_of(id);
        let found: Vec<&str> = found.iter().map(GenerationId::as_str).collect();
        assert_eq!(found, expected, "{id}");
    }

    #[test]
    fn item_ids_hold_the_id_of_their_response() {
        check("msg_abc0003", &["resp_abc"]);
        check("fco_abci0003", &["resp_abci", "resp_abc"]);
        check("rs_0003", &[]);
        check("rs_68a", &[]);
        check("msg", &[]);
        check("msg_ä0003", &[]);
        check("", &[]);
    }
}
