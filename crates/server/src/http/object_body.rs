//! A response object as a body, in pieces: a slow client holds no copy of a large answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use tokenwire_core::generation::{Generation, SharedPieces};
use tokenwire_core::model::include::{Form, Include};

/// The object as it was when the response began.
struct ObjectBody(SharedPieces);

/// Returns the object as it is now, for a reader that asks to be shown this, in a response with these
/// headers.
pub(super) fn object_json(
    mut response: HttpResponseBuilder,
    generation: &Arc<Generation>,
    include: Include,
) -> HttpResponse {
    response
        .content_type("application/json")
        .body(ObjectBody(generation.response_pieces(Form::Shown(include))))
}

impl MessageBody for ObjectBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}
