//! One socket's state, shared by the task that reads from the client and the body that writes to
//! it.
//!
//! Everything in it is bounded: readers and waiting creates by the options. Beyond some bytes
//! of [`Replies`] no further message is handled until the client has read them.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{
    Caller, Cursor, Engine, LOST_SEQ, LostStream, ReaderKind, Registry, Resumption,
    SessionResponses, StartRequest, Started,
};
use tokenwire_core::generation::{Generation, ReaderGuard, Subscription, SubscriptionError};
use tokenwire_core::model::account::AccountKind;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::Gauge;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::include::Include;
use tokenwire_core::model::log_scope::LogScope;
use tokenwire_core::model::snapshot::Status;
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::activity::{ActivityEvents, ActivityFeed};
use crate::control_frames::{CloseReason, ControlFrame};
use crate::lanes::{LaneKey, Lanes, QueuedCreate};
use crate::message::{self, Command, Named, Rejected, Resume};
use crate::readers::{Broken, Frames, POLL_BYTES, Readers};
use crate::replies::Replies;
use crate::socket_credential::{Expiry, SocketCredential, TicketCheck};
use crate::text_frames::{StreamId, TextFrames};
use crate::waiting_commands::WaitingCommands;

/// Bounds and identity of one socket.
#[derive(Clone, Debug)]
pub(crate) struct SessionOptions {
    pub(crate) caller: Caller,
    pub(crate) max_lanes: usize,
    pub(crate) max_queued: usize,
    /// Counts the readers.
    pub(crate) readers: Gauge,
    /// Whether the client takes `tokenwire:` events from the start.
    pub(crate) extensions: bool,
    pub(crate) credential: SocketCredential,
    pub(crate) tickets: Option<Rc<dyn TicketCheck>>,
    pub(crate) activity: Option<Rc<dyn ActivityFeed>>,
}

/// The most events of a watch that are sent in one piece.
const WATCH_EVENTS: usize = 64;

/// What each token needs comes first, in this order: with many sockets none of it is in the
/// processor's cache when a token arrives.
#[repr(C)]
pub(crate) struct SocketSession {
    body: Option<Waker>,
    readers: Readers,
    waiting: WaitingCommands<Self>,
    /// Lanes whose next create waits for room for its replies.
    freed: VecDeque<LaneKey>,
    /// The events of all streams, while the client watches them.
    watch: Option<Box<dyn ActivityEvents>>,
    closing: Closing,
    replies: Replies,
    /// Wakes the reading task once there is room for replies.
    room: Rc<Notify>,
    /// Whether the client takes `tokenwire:` events: it offered the subprotocol, or has sent a
    /// `tokenwire:` message. The SDKs fail on event types that they do not know.
    extensions: Arc<AtomicBool>,
    lanes: Lanes,
    /// The responses of this socket that are not stored.
    responses: SessionResponses,
    /// Whether the client was told that its credential ends.
    told: bool,
    /// Wakes the reading task once the credential was replaced.
    renewed: Rc<Notify>,
    engine: Engine,
    options: SessionOptions,
}

/// Whether a socket closes, and why: a code and a reason.
#[derive(Clone, Copy)]
enum Closing {
    Open,
    /// The close frame is to be sent.
    Due(CloseReason),
    /// Nothing follows.
    Ended,
}

impl SocketSession {
    pub(crate) fn new(engine: Engine, options: SessionOptions) -> Self {
        Self {
            engine,
            readers: Readers::new(options.readers.clone()),
            extensions: Arc::new(AtomicBool::new(options.extensions)),
            options,
            replies: Replies::default(),
            responses: SessionResponses::default(),
            lanes: Lanes::default(),
            waiting: WaitingCommands::default(),
            body: None,
            freed: VecDeque::new(),
            room: Rc::default(),
            told: false,
            renewed: Rc::default(),
            watch: None,
            closing: Closing::Open,
        }
    }

    /// The registry behind the engine.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.engine.registry().clone()
    }

    /// Whether nothing runs, waits or remains to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.readers.is_empty()
            && self.lanes.queued() == 0
            && self.waiting.is_empty()
            && self.replies.is_empty()
    }

    /// Whether the client knows of everything that it can resume elsewhere.
    pub(crate) fn may_leave(&self) -> bool {
        self.waiting.is_empty() && self.replies.is_empty()
    }

    /// Whether there is room for the replies to another message.
    pub(crate) fn has_room(&self) -> bool {
        self.replies.has_room()
    }

    /// Notified when there is room again.
    pub(crate) fn room(&self) -> Rc<Notify> {
        self.room.clone()
    }

    /// Cancelled when the credential is revoked.
    pub(crate) fn revoked(&self) -> Option<CancellationToken> {
        self.options.credential.revoked.clone()
    }

    /// Returns what is to be done about the credential's end, and when.
    pub(crate) fn expiry(&self) -> Option<Expiry> {
        self.options.credential.expiry(self.told)
    }

    /// Notified when the credential was replaced.
    pub(crate) fn renewed(&self) -> Rc<Notify> {
        self.renewed.clone()
    }

    /// Tells the client that its credential ends, if it takes such a message.
    pub(crate) fn tell_expiry(&mut self) {
        self.told = true;
        let left = self.options.credential.left().unwrap_or_default();
        if self.extensions.load(Ordering::Relaxed) {
            // Rounded up: one that has not ended yet does not end in 0 seconds.
            self.reply(
                &message::auth_expiring(left.as_millis().div_ceil(1000) as u64),
                None,
            );
            self.wake();
        }
    }

    /// Handles one message of the client.
    pub(crate) fn on_message(&mut self, text: &str) {
        let command = Command::parse(text);
        if match &command {
            Ok(command) => command.is_ours(),
            Err(rejected) => rejected.ours,
        } {
            self.take_extensions();
        }
        match command {
            Ok(Command::Create) => self.create(text),
            Ok(Command::Resume(resume)) => self.resume(resume),
            Ok(Command::Cancel(named)) => self.cancel(named),
            Ok(Command::Unsubscribe(named)) => {
                let done = parse_id(&named.response_id).and_then(|id| self.unsubscribe(&id));
                if let Err(error) = done {
                    self.failed_command(&named, &error);
                }
            }
            Ok(Command::Ping) => self.reply(message::PONG, None),
            Ok(Command::Auth(auth)) => self.authenticate(auth.ticket),
            Ok(Command::Watch(watch)) => self.watch(watch.after.as_deref()),
            Ok(Command::Unwatch) => self.watch = None,
            Err(rejected) => {
                let Rejected {
                    error,
                    ours,
                    response_id,
                    stream_id,
                } = *rejected;
                let reply = if ours {
                    message::command_error(response_id.as_deref(), &error)
                } else {
                    message::error(&error)
                };
                self.reply(&reply, stream_id.as_deref());
            }
        }
        self.start_waiting();
        self.wake();
    }

    /// Notes that the client takes `tokenwire:` events.
    fn take_extensions(&mut self) {
        if !self.extensions.swap(true, Ordering::Relaxed) {
            self.readers.framing_changed();
        }
    }

    /// Watches all streams, in place of an earlier watch.
    fn watch(&mut self, after: Option<&str>) {
        let allowed = self.options.credential.check_watch();
        let watching = allowed.and_then(|()| match &self.options.activity {
            Some(activity) => activity.watch(after),
            None => {
                let message = "There is no activity to watch on this socket.";
                Err(ApiError::new(ErrorCode::UnknownMessageType, message).param("type"))
            }
        });
        match watching {
            Ok(events) => self.watch = Some(events),
            Err(error) => self.reply(&message::command_error(None, &error), None),
        }
    }

    /// Watches as the new credential may, if the client watches: on from the last event where the
    /// numbers are the same.
    fn watch_again(&mut self) {
        if let Some(earlier) = self.watch.take() {
            let after = earlier.last_id().unwrap_or_default();
            drop(earlier);
            self.watch(Some(&after));
        }
    }

    /// Adds events of a watch to the replies, once all of those are taken. Returns whether some were
    /// added. A watch ends with the credential; there are events at least once a second.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> bool {
        if self.watch.is_some()
            && let Err(error) = self.options.credential.check_watch()
        {
            self.watch = None;
            self.reply(&message::command_error(None, &error), None);
            return true;
        }
        let Some(watch) = self.watch.as_mut().filter(|_| self.replies.is_empty()) else {
            return false;
        };
        for _ in 0..WATCH_EVENTS {
            match watch.poll_event(cx) {
                Poll::Ready(event) => self.replies.push(event.as_bytes(), None),
                Poll::Pending => break,
            }
        }
        !self.replies.is_empty()
    }

    /// Wakes the body: there is something to send, or to do.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.body.take() {
            waker.wake();
        }
    }

    /// Sends a control frame, after the replies so far.
    pub(crate) fn control(&mut self, frame: ControlFrame<'_>) {
        self.replies.push_control(frame);
        self.wake();
    }

    /// Ends what is sent with a close frame, after the replies so far and what its readers have now.
    pub(crate) fn close(&mut self, reason: CloseReason) {
        if matches!(self.closing, Closing::Open) {
            self.closing = Closing::Due(reason);
        }
        self.wake();
    }

    /// Whether everything was returned by [`Self::poll_frames`].
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.closing, Closing::Ended)
    }

    fn reply(&mut self, json: &[u8], stream_id: Option<&str>) {
        self.replies.push(json, stream_id);
    }

    /// Sends the response object of a stream that cannot be read from the wanted position.
    fn reset(
        &mut self,
        generation: &Arc<Generation>,
        stream_id: Option<&StreamId>,
        include: Include,
    ) {
        let frame = generation.reset_frame(&self.framing(stream_id), include);
        self.replies.push_pieces(frame);
    }

    fn framing(&self, stream_id: Option<&StreamId>) -> TextFrames {
        TextFrames {
            stream_id: stream_id.cloned(),
            extensions: self.extensions.clone(),
        }
    }

    fn create(&mut self, text: &str) {
        let request = match ResponsesRequest::parse(text.as_bytes()) {
            Ok(request) => request,
            Err(error) => {
                let lane = message::stream_id(text);
                return self.reply(&message::error(&error), lane.as_deref());
            }
        };
        let lane: LaneKey = request.stream_id().map(Into::into);
        if let Err(error) = self.options.credential.access.check_start() {
            return self.reply(&message::error(&error), lane.as_deref());
        }
        if !self.lanes.is_busy(&lane) {
            let running = self.lanes.running();
            if running >= self.options.max_lanes {
                let message = format!("This socket runs {running} lanes, which is its limit.");
                return self.limit_reached(lane.as_deref(), &message);
            }
            return self.start(lane, request);
        }
        let queued = self.lanes.queued();
        if queued >= self.options.max_queued {
            let message = format!("{queued} responses wait on this socket, which is its limit.");
            return self.limit_reached(lane.as_deref(), &message);
        }
        let account = self.engine.account();
        let size = request.memory_size();
        let charge = account
            .check_size(size)
            .and_then(|()| Ok(account.try_charge(AccountKind::Queued, size)?));
        match charge {
            Ok(charge) => self.lanes.enqueue(lane, QueuedCreate { request, charge }),
            Err(error) => self.reply(&message::error(&error), lane.as_deref()),
        }
    }

    fn limit_reached(&mut self, lane: Option<&str>, text: &str) {
        let error = ApiError::new(ErrorCode::WebsocketStreamLimitReached, text);
        self.reply(&message::error(&error), lane);
    }

    /// Starts a generation. The lane is busy from now on.
    fn start(&mut self, lane: LaneKey, request: ResponsesRequest) {
        self.lanes.run(lane.clone());
        // No freshness here: a browser sends `no-cache` with every upgrade, and a message has no
        // headers.
        let body = StreamRequest::Responses(request);
        let start = StartRequest::new(body, self.options.caller.clone(), "/v1/responses")
            .in_session(self.responses.clone());
        let engine = self.engine.clone();
        let scope = start
            .trace
            .as_ref()
            .map(|trace| LogScope::of(&trace.context));
        let starting = LogScope::run(scope, async move { engine.start(start).await });
        self.perform(starting, move |session, started| {
            session.started(lane, started)
        });
    }

    fn started(&mut self, lane: LaneKey, started: Result<Started, ApiError>) {
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                self.reply(&message::error(&error), lane.as_deref());
                return self.free(Some(lane));
            }
        };
        let id = started.guard.generation().meta().id.clone();
        let include = started.include;
        let extensions = self.extensions.load(Ordering::Relaxed);
        if extensions && !started.dropped_tools.is_empty() {
            let reply = message::tools_dropped(id.as_str(), &started.dropped_tools);
            self.reply(&reply, lane.as_deref());
        }
        // A client that does not take `tokenwire:reset` gets an error instead.
        let kind = if extensions {
            ReaderKind::WebSocket
        } else {
            ReaderKind::Sdk
        };
        match self.engine.read(started.guard, None, kind) {
            Ok(Resumption::Read { guard, from }) => {
                // A repeated key on this socket moves the reader to its new lane and frees the old
                // one.
                let moved = self.readers.take(&id).flatten();
                self.read(guard, from, include, lane.as_ref(), Some(lane.clone()));
                return self.free(moved);
            }
            // The log of a repeated key is gone.
            Ok(Resumption::Reset { generation }) => {
                self.reset(&generation, lane.as_ref(), include);
            }
            Ok(Resumption::Lost(LostStream { event, .. })) => self.reply(&event, lane.as_deref()),
            Ok(Resumption::NothingLeft { .. }) => {}
            Err(error) => self.reply(&message::error(&error), lane.as_deref()),
        }
        self.free(Some(lane));
    }

    fn read(
        &mut self,
        guard: ReaderGuard,
        from: Seq,
        include: Include,
        stream_id: Option<&StreamId>,
        lane: Option<LaneKey>,
    ) {
        let framing = Arc::new(self.framing(stream_id));
        let subscription =
            Subscription::new(guard, from, Dialect::Responses, framing).including(include);
        self.readers.push(subscription, stream_id.cloned(), lane);
    }

    fn resume(&mut self, resume: Resume) {
        let id = match parse_id(&resume.response_id) {
            Ok(id) => id,
            Err(error) => return self.failed_resume(&resume, &error),
        };
        if let Err(error) = self.options.credential.access.check_id(&id) {
            return self.failed_resume(&resume, &error);
        }
        let owner = self.options.caller.owner.clone();
        if let Some(generation) = self.engine.find_local(&id, &owner) {
            return self.resume_known(&resume, &generation);
        }
        if let Err(error) = self.may_wait() {
            return self.failed_resume(&resume, &error);
        }
        // Asked for with the cursor, since a lost stream has no generation.
        let engine = self.engine.clone();
        let cursor = Cursor {
            id,
            after: resume.starting_after,
        };
        let resuming = async move { engine.resume(&cursor, &owner, ReaderKind::WebSocket).await };
        self.perform(resuming, move |session, resumption| match resumption {
            Ok(Resumption::Read { guard, .. }) => {
                let generation = guard.generation().clone();
                session.resume_known(&resume, &generation);
            }
            Ok(Resumption::NothingLeft {
                generation: Some(generation),
            }) => session.resume_known(&resume, &generation),
            // Of a lost stream nothing shows under which key it was started.
            Ok(Resumption::NothingLeft { generation: None } | Resumption::Lost(_))
                if session.options.credential.access.reads_by_key() =>
            {
                let message = format!("Response with id '{}' not found.", resume.response_id);
                let error = ApiError::new(ErrorCode::NotFound, message);
                session.failed_resume(&resume, &error);
            }
            Ok(Resumption::NothingLeft { generation: None }) => {
                let from = resume
                    .starting_after
                    .map_or(0, |after| after.saturating_add(1));
                let status = Status::Failed.as_str();
                let head = Some(LOST_SEQ.0);
                let reply = message::resumed(&resume.response_id, from, head, status);
                session.reply(&reply, resume.stream_id.as_deref());
            }
            Ok(Resumption::Reset { generation }) => {
                if let Err(error) = session.options.credential.access.check(&generation) {
                    return session.failed_resume(&resume, &error);
                }
                let name: Option<StreamId> = resume.stream_id.as_deref().map(Into::into);
                session.reset(&generation, name.as_ref(), Include::default());
            }
            Ok(Resumption::Lost(LostStream { event, .. })) => {
                session.reply(&event, resume.stream_id.as_deref());
            }
            Err(error) => session.failed_resume(&resume, &error),
        });
    }

    fn failed_resume(&mut self, resume: &Resume, error: &ApiError) {
        let reply = message::command_error(Some(&resume.response_id), error);
        self.reply(&reply, resume.stream_id.as_deref());
    }

    fn resume_known(&mut self, resume: &Resume, generation: &Arc<Generation>) {
        if let Err(error) = self.try_resume(resume, generation) {
            self.failed_resume(resume, &error);
        }
    }

    fn try_resume(
        &mut self,
        resume: &Resume,
        generation: &Arc<Generation>,
    ) -> Result<(), ApiError> {
        self.options.credential.access.check(generation)?;
        let (response_id, after) = (&resume.response_id, resume.starting_after);
        // Attached before the old reader ends, so that the generation never has zero readers.
        let guard = generation.attach();
        // A second resume repositions: the first reader ends, but the lane stays its generation's.
        let lane = self.readers.take(&generation.meta().id);
        if lane.is_none() && self.readers.len() >= self.options.max_lanes {
            let message = format!(
                "This socket reads {} streams, which is its limit.",
                self.readers.len()
            );
            return Err(ApiError::new(
                ErrorCode::WebsocketStreamLimitReached,
                message,
            ));
        }
        let lane = lane.flatten();
        let name: Option<StreamId> = resume.stream_id.as_deref().map(Into::into);
        let resumption = self.engine.read(guard, after, ReaderKind::WebSocket)?;
        let resumed = |from| {
            // The status first: once it says that the generation has ended, the head is final.
            let status = generation.status();
            let tail = generation.tail().ok();
            let head = tail.map(|tail| tail.next.0.saturating_sub(1));
            message::resumed(response_id, from, head, status.as_str())
        };
        match resumption {
            Resumption::Read { guard, from } => {
                // A reader whose position was lost gets a reset from its subscription instead.
                if !after.is_some_and(|after| generation.is_lost(Seq(after))) {
                    self.reply(&resumed(from.0), name.as_deref());
                }
                let include = Include::of(resume.include.iter().map(String::as_str));
                self.read(guard, from, include, name.as_ref(), lane);
            }
            Resumption::NothingLeft { .. } => {
                let from = after.map_or(0, |after| after.saturating_add(1));
                self.reply(&resumed(from), name.as_deref());
                self.free(lane);
            }
            Resumption::Reset { generation } => {
                self.reset(&generation, name.as_ref(), Include::default());
                self.free(lane);
            }
            Resumption::Lost(LostStream { event, .. }) => {
                self.reply(&event, name.as_deref());
                self.free(lane);
            }
        }
        Ok(())
    }

    fn cancel(&mut self, named: Named) {
        let id = match parse_id(&named.response_id) {
            Ok(id) => id,
            Err(error) => return self.failed_command(&named, &error),
        };
        let access = self.options.credential.access.clone();
        if let Err(error) = access.check_cancel().and_then(|()| access.check_id(&id)) {
            return self.failed_command(&named, &error);
        }
        let owner = self.options.caller.owner.clone();
        if let Some(generation) = self.engine.find_local(&id, &owner) {
            return match access.check(&generation) {
                Ok(()) => generation.cancel(),
                Err(error) => self.failed_command(&named, &error),
            };
        }
        if let Err(error) = self.may_wait() {
            return self.failed_command(&named, &error);
        }
        let engine = self.engine.clone();
        let finding = async move { engine.find(&id, &owner).await };
        self.perform(finding, move |session, found| {
            let checked = found.and_then(|found| access.check(&found).map(|()| found));
            match checked {
                Ok(generation) => generation.cancel(),
                Err(error) => session.failed_command(&named, &error),
            }
        });
    }

    /// Replaces the credential by a ticket of the same owner.
    fn authenticate(&mut self, ticket: String) {
        let Some(tickets) = self.options.tickets.clone() else {
            return;
        };
        if let Err(error) = self.may_wait() {
            return self.reply(&message::command_error(None, &error), None);
        }
        let checking = tickets.renew(ticket, self.options.caller.owner.clone());
        self.perform(checking, |session, checked| match checked {
            Ok(renewal) => {
                session.options.caller = renewal.caller;
                session.options.credential = renewal.credential;
                session.engine = renewal.engine;
                session.options.activity = renewal.activity;
                session.told = false;
                session.watch_again();
                session.renewed.notify_one();
            }
            Err(error) => session.reply(&message::command_error(None, &error), None),
        });
    }

    fn failed_command(&mut self, named: &Named, error: &ApiError) {
        let reply = message::command_error(Some(&named.response_id), error);
        self.reply(&reply, None);
    }

    /// Runs an operation and then `then`: at once if it does not wait, else when it is done.
    fn perform<T: 'static>(
        &mut self,
        operation: impl Future<Output = T> + 'static,
        then: impl FnOnce(&mut Self, T) + 'static,
    ) {
        let mut operation = Box::pin(operation);
        match operation.as_mut().now_or_never() {
            Some(output) => then(self, output),
            None => self.waiting.push(operation, then),
        }
    }

    fn unsubscribe(&mut self, id: &GenerationId) -> Result<(), ApiError> {
        let Some(lane) = self.readers.take(id) else {
            return Err(ApiError::new(
                ErrorCode::NotFound,
                format!("This socket does not read '{id}'."),
            ));
        };
        self.free(lane);
        Ok(())
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) {
        while let Some(then) = self.waiting.poll_done(cx) {
            then(self);
            self.start_waiting();
        }
    }

    /// Refuses a command that would have to wait while as many wait as there are lanes. Creates are
    /// bounded by their lanes.
    fn may_wait(&self) -> Result<(), ApiError> {
        let waiting = self.waiting.len();
        if waiting < self.options.max_lanes {
            return Ok(());
        }
        let message = format!("{waiting} commands of this socket wait, which is its limit.");
        let code = ErrorCode::WebsocketStreamLimitReached;
        Err(ApiError::new(code, message))
    }

    /// Notes that a lane's generation has ended, is no longer read, or was not started.
    fn free(&mut self, lane: Option<LaneKey>) {
        self.freed.extend(lane);
    }

    /// Starts the next create of each freed lane, while there is room for what they reply. One that
    /// starts nothing frees its lane again, so it does not hold up those behind it.
    #[inline]
    fn start_waiting(&mut self) {
        if !self.freed.is_empty() {
            self.start_freed();
        }
    }

    #[cold]
    fn start_freed(&mut self) {
        while self.has_room()
            && let Some(lane) = self.freed.pop_front()
        {
            if let Some(QueuedCreate { request, charge }) = self.lanes.release(&lane) {
                self.start(lane, request);
                // Until here it stands for the request as it was read.
                drop(charge);
            }
        }
    }

    /// Returns everything that is ready to be sent, as frames.
    pub(crate) fn poll_frames(&mut self, cx: &mut Context<'_>) -> Bytes {
        if !self
            .body
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.body = Some(cx.waker().clone());
        }
        let mut out = Frames::default();
        if self.has_ended() {
            return out.into_bytes();
        }
        self.poll_waiting(cx);
        loop {
            // Between the pieces of a frame there may be nothing else.
            if !(self.readers.finish_frame(&mut out) && self.take_replies(&mut out)) {
                cx.waker().wake_by_ref();
                return out.into_bytes();
            }
            if let Closing::Due(reason) = self.closing {
                self.finish(reason, cx, &mut out);
                return out.into_bytes();
            }
            let more = !self.freed.is_empty();
            self.start_waiting();
            let ended = self.readers.poll(cx, &mut out);
            let full = out.len() >= POLL_BYTES;
            if full {
                // There may be more: the body polls again as soon as this much is written.
                cx.waker().wake_by_ref();
            }
            let more = more || ended.is_some();
            if let Some(reader) = ended {
                if let Some(broken) = reader.broken {
                    self.report(&broken);
                }
                self.free(reader.lane);
            }
            self.start_waiting();
            // A freed lane may have started its next create, whose first event is ready at once.
            if full || !more {
                if self.readers.is_between_frames() {
                    // There may be more events of a watch: the body polls again once these are written.
                    let watched = !full && self.poll_watch(cx);
                    if !self.take_replies(&mut out) || watched {
                        cx.waker().wake_by_ref();
                    }
                }
                return out.into_bytes();
            }
        }
    }

    /// Collects what its readers have and then the close frame, unless a frame is begun that is to
    /// be complete first. A terminal event that is ready comes before the close.
    fn finish(&mut self, reason: CloseReason, cx: &mut Context<'_>, out: &mut Frames) {
        while self.readers.poll(cx, out).is_some() {}
        if !self.readers.is_between_frames() {
            self.readers.clear();
            cx.waker().wake_by_ref();
            return;
        }
        self.closing = Closing::Ended;
        let mut close = BytesMut::new();
        ControlFrame::Close(reason).write(&mut close);
        out.push(close.freeze());
    }

    /// Tells the client of a stream that broke off: with the response object, if that is left.
    fn report(&mut self, broken: &Broken) {
        let Broken {
            id,
            stream_id,
            error,
        } = broken;
        let name = stream_id.as_deref();
        let left = self.engine.find_local(id, &self.options.caller.owner);
        let lost = matches!(error, SubscriptionError::ProducerLost);
        let extensions = self.extensions.load(Ordering::Relaxed);
        if let (Some(generation), SubscriptionError::Expired, true) = (left, error, extensions) {
            return self.reset(&generation, stream_id.as_ref(), Include::default());
        }
        let lost = lost.then(|| LostStream::new(id));
        if let (Some(lost), true) = (&lost, extensions) {
            return self.reply(&lost.event, name);
        }
        let gone = lost.map_or_else(
            || {
                ApiError::new(
                    ErrorCode::PositionGone,
                    format!("The stream cannot be read any further: {error}."),
                )
            },
            |lost| lost.error,
        );
        let reply = if extensions {
            message::command_error(Some(id.as_str()), &gone)
        } else {
            message::error(&gone)
        };
        self.reply(&reply, name);
    }

    /// Moves the waiting replies to `out`. Returns whether all are there.
    fn take_replies(&mut self, out: &mut Frames) -> bool {
        if self.replies.is_empty() {
            return true;
        }
        self.room.notify_one();
        self.replies.take(out)
    }
}

fn parse_id(text: &str) -> Result<GenerationId, ApiError> {
    text.parse().map_err(|_| {
        let message = "Response not found: the id is not one of the gateway's.";
        ApiError::new(ErrorCode::NotFound, message).param("response_id")
    })
}

#[cfg(test)]
mod tests;
