//! From a request to what its generation is made of.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::conversation::{Conversation, bytes};
use super::meter::MeteredStart;
use super::metered_relay::MeteredRelay;
use super::upstream_input::{self, UpstreamInput};
use super::{Engine, StartRequest};
use crate::generation::Work;
use crate::log::LogHeader;
use crate::model::account::{AccountKind, Charge};
use crate::model::error::ApiError;
use crate::model::id::{GenerationId, Owner};
use crate::model::include::{ENCRYPTED_REASONING, Include};
use crate::model::json::unsupported;
use crate::model::snapshot::{Api, Meta};
use crate::model::time::unix_now;
use crate::request::chat::StreamOptions;
use crate::request::{
    ChatRequest, ForeignRequest, RequestFields, ResponsesRequest, StreamRequest, ToolNames, chat,
    responses,
};
use crate::upstream::{
    AnswerOrigin, Asked, BodyWriter, CarriedReasoning, OpenError, Target, Timeouts, UpstreamRequest,
};

/// The path at which an upstream counts tokens and uses none.
const INPUT_TOKENS: &str = "/responses/input_tokens";

/// A request that was translated and routed.
pub(super) struct Plan {
    /// The first part of the log. The idempotency key is not in it yet.
    pub(super) header: LogHeader,
    pub(super) work: Work,
    /// Whether it first waits for a permit of the upstream.
    pub(super) queued: bool,
    /// What the client asks to be shown.
    pub(super) include: Include,
    /// Whether no answer is asked for.
    pub(super) silent: bool,
    /// The most output tokens of one choice, if the request says so.
    pub(super) max_output: Option<u64>,
    /// The types of the tools that the upstream cannot run and that were left out.
    pub(super) dropped_tools: Vec<String>,
}

/// A body for an upstream, and what goes with it.
struct WrittenBody {
    body: Vec<u8>,
    tools: ToolNames,
    dropped_tools: Vec<String>,
    reasoning: Option<Box<CarriedReasoning>>,
}

impl Engine {
    /// Translates the request for the upstream that its model is routed to. `inputs` counts what it
    /// takes to start it, and grows by the earlier turns.
    pub(super) async fn plan(
        &self,
        request: StartRequest,
        inputs: &mut Charge,
    ) -> Result<Plan, ApiError> {
        match &request.body {
            StreamRequest::Chat(chat) => self.plan_chat(chat, &request),
            StreamRequest::Responses(responses) => {
                // Boxed: it is much larger than the plan of a chat request.
                let conversation = Box::pin(self.conversation(responses, &request, inputs));
                let mut conversation = conversation.await?;
                let mut plan = self.plan_responses(responses, &request, &mut conversation)?;
                let upstream = &mut plan.work.request;
                if upstream.api == Api::Chat && self.upstream.chat_settings_vary() {
                    let held = conversation.request(responses).memory_size()
                        + bytes(&conversation.history.items());
                    let charge = self.account.charge(AccountKind::Requests, held);
                    upstream.writer = Some(conversation.into_writer(request.body, charge));
                }
                Ok(plan)
            }
            StreamRequest::Canonical(foreign) => self.plan_foreign(foreign, &request),
        }
    }

    fn plan_chat(&self, chat: &ChatRequest, request: &StartRequest) -> Result<Plan, ApiError> {
        let target = self
            .upstream
            .route(chat.model(), request.client_key.as_ref())?;
        let needs_usage = request
            .meter
            .as_ref()
            .is_some_and(|meter| meter.needs_usage());
        let body = match target.api {
            Api::Chat => {
                let settings = self.upstream.chat_settings(target.endpoint);
                let usage = needs_usage && settings.stream_options == StreamOptions::Send;
                chat.upstream_body(target.upstream_model.as_deref(), usage)
            }
            Api::Responses => {
                chat.to_responses(target.upstream_model.as_deref().unwrap_or(&target.model))?
            }
        };
        let fields = chat.request_fields();
        let max_output = fields.max_output();
        let body = self.account.hold(AccountKind::Requests, body);
        let mut work = work(&target, body, chat.n(), None, request);
        if needs_usage && target.api == Api::Chat && self.upstream.chat_settings_vary() {
            let chat = chat.clone();
            work.request.writer = Some(BodyWriter::new(move |model, settings| {
                let usage = settings.stream_options == StreamOptions::Send;
                Some(chat.upstream_body(Some(model), usage).into())
            }));
        }
        if !chat.stream() && target.api == Api::Chat {
            // The answer comes in one piece, so its first token is its last.
            work.request.streamed = false;
            work.request.first_token_timeout = target.timeouts.total;
            work.timeouts = Timeouts {
                first_token: Duration::ZERO,
                between_tokens: Duration::ZERO,
                ..work.timeouts
            };
        }
        let meta = Meta {
            include_usage: chat.include_usage(),
            ..meta(
                self.ids.generation_id(),
                &target,
                fields,
                &request.owner,
                false,
                true,
            )
        };
        Ok(Plan {
            header: LogHeader::new(meta, self.upstream_name(&target)),
            work,
            queued: target.queued,
            include: Include::default(),
            silent: false,
            max_output,
            dropped_tools: Vec::new(),
        })
    }

    /// Returns the configured name of the upstream, empty if it has none.
    fn upstream_name_of(&self, target: &Target) -> Arc<str> {
        self.upstream
            .endpoint_name(target.endpoint)
            .unwrap_or_default()
            .into()
    }

    /// Returns the configured name of the upstream, for the store.
    fn upstream_name(&self, target: &Target) -> Arc<str> {
        static UNNAMED: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
        let name = self.upstream.endpoint_name(target.endpoint);
        match (self.persistence.is_some() || self.replica.is_some(), name) {
            (true, Some(name)) => name.into(),
            _ => UNNAMED.clone(),
        }
    }

    fn plan_responses(
        &self,
        received: &ResponsesRequest,
        request: &StartRequest,
        conversation: &mut Conversation,
    ) -> Result<Plan, ApiError> {
        if request.session.is_none() && !received.generate() {
            let why = "Over HTTP every request generates; leave 'generate' out.";
            return Err(unsupported("generate", why));
        }
        let responses = conversation.request(received);
        let input = responses.raw_input();
        let target = self.target(&conversation.history.items(), &input, responses, request)?;
        let upstream = self.upstream_name_of(&target);
        if holds_sealed(&input) {
            let unsealed = self.unseal(responses, &request.owner, &upstream)?;
            conversation.change(unsealed);
        }
        let responses = conversation.request(received);
        let items = conversation.history.items();
        let written = self.written(&target, &items, responses, request)?;
        let choices = responses
            .get("n")
            .and_then(|raw| raw.get().parse().ok())
            .unwrap_or(1);
        let body = self.account.hold(AccountKind::Requests, written.body);
        let previous = received.previous_response_id();
        let mut work = Work {
            tools: written.tools,
            ..work(&target, body, choices, previous, request)
        };
        work.request.reasoning = written.reasoning;
        work.request.reattach = received.store() || received.background();
        let include = received.include();
        if target.api == Api::Chat && include.encrypted_reasoning {
            work.seal = Some(self.secret.seal(request.owner.clone(), upstream));
        }
        Ok(Plan {
            header: self.header(&target, received, request, conversation),
            work,
            queued: target.queued && received.generate(),
            include,
            silent: !received.generate(),
            max_output: received.request_fields().max_output(),
            dropped_tools: written.dropped_tools,
        })
    }

    /// Writes the body of a Responses request for its upstream.
    fn written(
        &self,
        target: &Target,
        items: &[&RawValue],
        responses: &ResponsesRequest,
        request: &StartRequest,
    ) -> Result<WrittenBody, ApiError> {
        let model = target.upstream_model.as_deref().unwrap_or(&target.model);
        match target.api {
            Api::Chat => {
                let settings = self.upstream.chat_settings(target.endpoint);
                let chat = responses.to_chat(items, model, &settings)?;
                Ok(WrittenBody {
                    body: chat.body,
                    tools: chat.tool_names,
                    dropped_tools: chat.dropped_tools,
                    reasoning: None,
                })
            }
            Api::Responses => {
                let (body, carried) = self.relayed(target, items, responses, request, model);
                Ok(WrittenBody {
                    body,
                    reasoning: Some(Box::new(carried)),
                    tools: ToolNames::default(),
                    dropped_tools: Vec::new(),
                })
            }
        }
    }

    /// Returns the header of a response's log, with the items that later turns build on.
    fn header(
        &self,
        target: &Target,
        received: &ResponsesRequest,
        request: &StartRequest,
        conversation: &Conversation,
    ) -> LogHeader {
        let mut meta = meta(
            self.ids.generation_id(),
            target,
            received.request_fields(),
            &request.owner,
            received.background(),
            received.store(),
        );
        if !received.generate() {
            // An empty answer, which has no chunks.
            meta.api = Api::Responses;
        }
        let own = conversation.request(received).input_items(&meta.id);
        // Later requests do not find what this socket alone may name.
        let (predecessor, input) = if meta.store && !conversation.history.is_stored() {
            let items = conversation.history.items().into_iter();
            (None, items.map(ToOwned::to_owned).chain(own).collect())
        } else {
            (conversation.predecessor.clone(), own)
        };
        LogHeader {
            predecessor,
            input,
            ..LogHeader::new(meta, self.upstream_name(target))
        }
    }

    /// Plans a request of a language that this crate does not know.
    fn plan_foreign(
        &self,
        foreign: &ForeignRequest,
        request: &StartRequest,
    ) -> Result<Plan, ApiError> {
        let target = self
            .upstream
            .route(foreign.model.as_deref(), request.client_key.as_ref())?;
        let model = target.upstream_model.as_deref().unwrap_or(&target.model);
        let (mut tools, mut dropped_tools) = (ToolNames::default(), Vec::new());
        let body = match target.api {
            Api::Chat => {
                let settings = self.upstream.chat_settings(target.endpoint);
                let chat = chat::write(&foreign.request, model, &settings)?;
                tools = chat.tool_names;
                dropped_tools = chat.dropped_tools;
                chat.body
            }
            Api::Responses => responses::write(&foreign.request, model)?,
        };
        let body = self.account.hold(AccountKind::Requests, body);
        let meta = meta(
            self.ids.generation_id(),
            &target,
            RequestFields::default(),
            &request.owner,
            false,
            true,
        );
        let max_output = foreign.request.max_output_tokens.as_ref();
        let max_output = max_output.and_then(|limit| limit.json().parse().ok());
        let mut work = Work {
            tools,
            ..work(&target, body, 1, None, request)
        };
        if target.api == Api::Chat && self.upstream.chat_settings_vary() {
            let request = foreign.request.clone();
            work.request.writer = Some(BodyWriter::new(move |model, settings| {
                let chat = chat::write(&request, model, settings).ok()?;
                Some(chat.body.into())
            }));
        }
        Ok(Plan {
            header: LogHeader::new(meta, self.upstream_name(&target)),
            work,
            queued: target.queued,
            include: Include::default(),
            silent: false,
            max_output,
            dropped_tools,
        })
    }

    /// Passes a request on to a path of its upstream, with the conversation that it names. Returns
    /// `None` if the upstream does not speak Responses.
    ///
    /// # Errors
    /// A fault of the request, as for [`Engine::start`].
    pub async fn relay(
        &self,
        request: StartRequest,
        path: &'static str,
    ) -> Result<Option<Result<Bytes, OpenError>>, ApiError> {
        let StreamRequest::Responses(received) = &request.body else {
            return Ok(None);
        };
        let mut inputs = self.account.try_start(received.memory_size())?;
        let conversation = self.conversation(received, &request, &mut inputs).await?;
        let items = conversation.history.items();
        let responses = conversation.request(received);
        let target = self.target(&items, &responses.raw_input(), responses, &request)?;
        if target.api == Api::Chat {
            return Ok(None);
        }
        let (input, _) = self.upstream_input(&target, &items, responses, &request);
        let model = target.upstream_model.as_deref().unwrap_or(&target.model);
        let changed = input.changed || !items.is_empty();
        let json = changed.then_some(input.json.as_str());
        let body = responses.relayed_as_it_is(model, json);
        let body = self.account.hold(AccountKind::Requests, body);
        let work = work(&target, body, 1, None, &request);
        let counts = path != INPUT_TOKENS;
        let metered = match &request.meter {
            Some(meter) => {
                let admission = meter.admit(&MeteredStart {
                    model: &work.request.model,
                    body: if counts { &work.request.body } else { &[] },
                    choices: u32::from(counts),
                    max_output: None,
                });
                Some(MeteredRelay::new(admission.decided().await?))
            }
            None => None,
        };
        let answer = self.upstream.relay(work.request, path).await;
        if let Some(metered) = metered {
            metered.answered(&answer);
        }
        Ok(Some(answer))
    }

    /// Returns the history and the input as the upstream takes them, and the tag of its credential.
    fn upstream_input(
        &self,
        target: &Target,
        history: &[&RawValue],
        responses: &ResponsesRequest,
        request: &StartRequest,
    ) -> (UpstreamInput, Option<String>) {
        let credential = self
            .upstream
            .credential(target.endpoint, request.client_key.as_ref());
        let text = responses.text_as_item(history);
        let mut items = history.to_vec();
        match &text {
            Some(text) => items.push(text),
            None => items.extend(responses.raw_input()),
        }
        let input = upstream_input::write(&items, credential.as_deref());
        (input, credential)
    }

    /// Routes a request. One that carries encrypted reasoning goes to the account that takes it.
    fn target(
        &self,
        history: &[&RawValue],
        input: &[&RawValue],
        responses: &ResponsesRequest,
        request: &StartRequest,
    ) -> Result<Target, ApiError> {
        let model = responses.model();
        let key = request.client_key.as_ref();
        let credential =
            upstream_input::credential_of(input).or_else(|| upstream_input::credential_of(history));
        match credential {
            Some(credential) => self.upstream.route_to(model.as_deref(), key, &credential),
            None => self.upstream.route(model.as_deref(), key),
        }
    }

    /// Returns the body for a Responses upstream, and what it says of encrypted reasoning.
    fn relayed(
        &self,
        target: &Target,
        history: &[&RawValue],
        responses: &ResponsesRequest,
        request: &StartRequest,
        model: &str,
    ) -> (Vec<u8>, CarriedReasoning) {
        let (input, credential) = self.upstream_input(target, history, responses, request);
        let changed = input.changed || !history.is_empty();
        let mut include = responses.included();
        let asked = !include.iter().any(|value| value == ENCRYPTED_REASONING)
            && self.upstream.may_encrypt(target.endpoint, &target.model);
        let include = asked.then(|| {
            include.push(ENCRYPTED_REASONING.to_owned());
            // Strings always serialise.
            serde_json::to_string(&include).unwrap_or_default()
        });
        let json = changed.then_some(input.json.as_str());
        let carried = CarriedReasoning {
            credential: credential.filter(|_| input.encrypted),
            asked,
            answer: AnswerOrigin::default(),
        };
        (responses.relayed(model, json, include.as_deref()), carried)
    }
}

/// Whether any item has content that was sealed here.
fn holds_sealed(items: &[&RawValue]) -> bool {
    let holds = |item: &RawValue| memchr::memmem::find(item.get().as_bytes(), b"\"tw1.").is_some();
    items.iter().any(|item| holds(item))
}

fn work(
    target: &Target,
    body: Bytes,
    choices: u32,
    previous_response_id: Option<String>,
    request: &StartRequest,
) -> Work {
    let upstream = UpstreamRequest {
        api: target.api,
        model: target.model.clone(),
        body,
        writer: None,
        headers: request.headers.clone(),
        endpoint: target.endpoint,
        reservation: target.reservation.clone(),
        streamed: true,
        first_token_timeout: target.timeouts.first_token,
        client_key: request.client_key.clone(),
        reasoning: None,
        asked: Asked::default(),
        trace: request.trace.clone(),
        reattach: false,
    };
    Work {
        request: upstream,
        timeouts: target.timeouts,
        choices,
        previous_response_id,
        seal: None,
        tools: ToolNames::default(),
    }
}

fn meta(
    id: GenerationId,
    target: &Target,
    fields: RequestFields,
    owner: &Owner,
    background: bool,
    store: bool,
) -> Meta {
    Meta {
        id,
        owner: owner.clone(),
        created_at: unix_now(),
        model: target.model.clone(),
        request_fields: fields.into_json(),
        api: target.api,
        background,
        store,
        include_usage: false,
    }
}
