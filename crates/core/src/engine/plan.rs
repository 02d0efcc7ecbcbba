//! From a request to what its generation is made of.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;

use super::history::{History, no_response};
use super::{Engine, StartRequest};
use crate::generation::Work;
use crate::log::LogHeader;
use crate::model::account::{AccountKind, Charge};
use crate::model::error::ApiError;
use crate::model::id::{GenerationId, Owner};
use crate::model::snapshot::{Api, Meta};
use crate::model::time::unix_now;
use crate::request::{
    ChatRequest, ForeignRequest, RequestFields, ResponsesRequest, StreamRequest, ToolNames, chat,
    responses,
};
use crate::upstream::{BodyWriter, Target, Timeouts, UpstreamRequest};

/// A request that was translated and routed.
pub(super) struct Plan {
    /// The first part of the log. The idempotency key is not in it yet.
    pub(super) header: LogHeader,
    pub(super) work: Work,
    /// Whether it first waits for a permit of the upstream.
    pub(super) queued: bool,
    /// The types of the tools that the upstream cannot run and that were left out.
    pub(super) dropped_tools: Vec<String>,
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
                self.plan_responses(responses, &request, inputs).await
            }
            StreamRequest::Canonical(foreign) => self.plan_foreign(foreign, &request),
        }
    }

    fn plan_chat(&self, chat: &ChatRequest, request: &StartRequest) -> Result<Plan, ApiError> {
        let target = self
            .upstream
            .route(chat.model(), request.client_key.as_ref())?;
        let body = match target.api {
            Api::Chat => chat.upstream_body(target.upstream_model.as_deref()),
            Api::Responses => {
                chat.to_responses(target.upstream_model.as_deref().unwrap_or(&target.model))?
            }
        };
        let fields = chat.request_fields();
        let body = self.account.hold(AccountKind::Requests, body);
        let mut work = work(&target, body, chat.n(), None, request);
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
            dropped_tools: Vec::new(),
        })
    }

    /// Returns the configured name of the upstream, for the store.
    fn upstream_name(&self, target: &Target) -> Arc<str> {
        static UNNAMED: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
        let name = self.upstream.endpoint_name(target.endpoint);
        match (&self.persistence, name) {
            (Some(_), Some(name)) => name.into(),
            _ => UNNAMED.clone(),
        }
    }

    async fn plan_responses(
        &self,
        responses: &ResponsesRequest,
        request: &StartRequest,
        inputs: &mut Charge,
    ) -> Result<Plan, ApiError> {
        let previous = responses.previous_response_id();
        let predecessor = match &previous {
            Some(id) => Some(id.parse().map_err(|_| no_response(id))?),
            None => None,
        };
        let history = match &predecessor {
            Some(id) => self.chain(id, &request.owner).await?,
            None => History::default(),
        };
        let items = history.items();
        if !items.is_empty() {
            let earlier: usize = items.iter().map(|item| item.get().len()).sum();
            inputs.try_start(responses.memory_size() + earlier)?;
        }
        let target = self
            .upstream
            .route(responses.model().as_deref(), request.client_key.as_ref())?;
        let model = target.upstream_model.as_deref().unwrap_or(&target.model);
        let (mut tools, mut dropped_tools) = (ToolNames::default(), Vec::new());
        let body = match target.api {
            Api::Chat => {
                let settings = self.upstream.chat_settings(target.endpoint);
                let chat = responses.to_chat(&items, model, &settings)?;
                tools = chat.tool_names;
                dropped_tools = chat.dropped_tools;
                chat.body
            }
            Api::Responses => responses.to_responses(&items, model),
        };
        let choices = responses
            .get("n")
            .and_then(|raw| raw.get().parse().ok())
            .unwrap_or(1);
        let body = self.account.hold(AccountKind::Requests, body);
        let mut work = Work {
            tools,
            ..work(&target, body, choices, previous, request)
        };
        if target.api == Api::Chat && self.upstream.chat_settings_vary() {
            let whole = responses.to_responses(&items, model);
            let whole = self.account.hold(AccountKind::Requests, whole);
            work.request.writer = Some(BodyWriter::new(move |model, settings| {
                let request = ResponsesRequest::parse(&whole).ok()?;
                let chat = request.to_chat(&[], model, settings).ok()?;
                Some(chat.body.into())
            }));
        }
        let meta = meta(
            self.ids.generation_id(),
            &target,
            responses.request_fields(),
            &request.owner,
            responses.background(),
            responses.store(),
        );
        let header = LogHeader {
            predecessor,
            input: responses.input_items(),
            ..LogHeader::new(meta, self.upstream_name(&target))
        };
        Ok(Plan {
            header,
            work,
            queued: target.queued,
            dropped_tools,
        })
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
            dropped_tools,
        })
    }
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
    };
    Work {
        request: upstream,
        timeouts: target.timeouts,
        choices,
        previous_response_id,
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
