//! `POST /admin/reload`

use actix_web::{HttpResponse, web};
use serde_json::json;
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::HttpError;
use crate::reload::Reloader;

/// Reads the configuration again, and tells what has changed.
pub(super) async fn reload(
    reloader: Option<web::Data<Reloader>>,
) -> Result<HttpResponse, HttpError> {
    let Some(reloader) = reloader else {
        let message = "The gateway was started without a source that can be read again.";
        return Err(ApiError::new(ErrorCode::ReloadFailed, message).into());
    };
    match reloader.reload("POST /admin/reload").await {
        Ok(outcome) => Ok(HttpResponse::Ok().json(json!({
            "object": "reload",
            "changed": outcome.changed,
            "needs_restart": outcome.needs_restart,
        }))),
        Err(error) => Err(ApiError::new(ErrorCode::ReloadFailed, error.to_string()).into()),
    }
}
