//! `/v1/models`: the models of all upstreams, under the names that clients use.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::{HttpError, open_error_response};
use crate::service::Service;

/// Time limit for the lists of the upstreams.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the models, or the error response.
async fn offered(service: &Service) -> Result<Vec<Value>, HttpResponse> {
    let (bodies, error) = service.router.models(TIMEOUT).await;
    if let Some(error) = error.filter(|_| bodies.is_empty()) {
        return Err(open_error_response(&error));
    }
    let mut models: Vec<Value> = Vec::new();
    for (name, body) in bodies {
        let listed = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|mut list| list.get_mut("data").map(Value::take));
        for mut model in listed
            .and_then(|data| data.as_array().cloned())
            .unwrap_or_default()
        {
            let Some(id) = model.get("id").and_then(Value::as_str).map(str::to_owned) else {
                continue;
            };
            for public in service.public_names(&name, &id) {
                if let Some(object) = model.as_object_mut() {
                    object.insert("id".to_owned(), Value::from(public.as_str()));
                    // The SDKs require these members; not every server sends them.
                    object.entry("object").or_insert_with(|| json!("model"));
                    object.entry("created").or_insert_with(|| json!(0));
                    object
                        .entry("owned_by")
                        .or_insert_with(|| json!(name.as_str()));
                }
                if !models
                    .iter()
                    .any(|known| known.get("id") == model.get("id"))
                {
                    models.push(model.clone());
                }
            }
        }
    }
    Ok(models)
}

/// `GET /v1/models`
pub(super) async fn list(service: web::Data<Service>) -> HttpResponse {
    match offered(&service).await {
        Ok(models) => HttpResponse::Ok().json(json!({"object": "list", "data": models})),
        Err(response) => response,
    }
}

/// `GET /v1/models/{id}`
pub(super) async fn retrieve(
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let models = match offered(&service).await {
        Ok(models) => models,
        Err(response) => return Ok(response),
    };
    match models
        .into_iter()
        .find(|model| model.get("id").and_then(Value::as_str) == Some(id.as_str()))
    {
        Some(model) => Ok(HttpResponse::Ok().json(model)),
        None => {
            let mut error = ApiError::new(
                ErrorCode::NotFound,
                format!("The model '{id}' does not exist."),
            )
            .param("model");
            error.code = Some("model_not_found".into());
            Err(error.into())
        }
    }
}
