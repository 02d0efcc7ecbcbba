//! `/v1/models`: the models of all upstreams, under the names that clients use.

use std::collections::HashSet;

use actix_web::{HttpRequest, HttpResponse, web};
use futures::future::join_all;
use serde_json::{Map, Value, json};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::{HttpError, open_error_response};
use crate::auth::Identity;
use crate::service::Service;

/// Models by the names that clients use, each once.
#[derive(Default)]
struct PublicModels {
    names: HashSet<String>,
    models: Vec<Value>,
}

impl PublicModels {
    /// Adds a model of this upstream under a public name, unless that name is listed already.
    fn add(&mut self, name: &str, upstream: &str, mut object: Map<String, Value>) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        object.insert("id".to_owned(), Value::from(name));
        // The SDKs require these members; not every server sends them.
        object.entry("object").or_insert_with(|| json!("model"));
        object.entry("created").or_insert_with(|| json!(0));
        object.entry("owned_by").or_insert_with(|| json!(upstream));
        self.models.push(Value::Object(object));
    }
}

/// Returns the models that this client may use: those that the upstreams list and those that the configuration names, or the error
/// response if there are none because an upstream failed.
async fn offered(service: &Service, identity: &Identity) -> Result<Vec<Value>, HttpResponse> {
    let routes = service.router.routes().iter();
    let lists = join_all(
        service
            .upstreams
            .iter()
            .zip(routes)
            .map(|(upstream, route)| upstream.models.get(&*route.endpoint)),
    )
    .await;
    let (mut public, mut first_error) = (PublicModels::default(), None);
    for (upstream, list) in service.upstreams.iter().zip(lists) {
        let name = upstream.config.name.as_str();
        if !identity.has_upstream(name) {
            continue;
        }
        let models = match list {
            Ok(models) => models,
            Err(error) => {
                first_error = first_error.or(Some(error));
                continue;
            }
        };
        for model in models.iter().filter_map(Value::as_object) {
            let Some(id) = model.get("id").and_then(Value::as_str) else {
                continue;
            };
            let names = service.public_names(name, id).into_iter();
            for public_name in names.filter(|name| identity.has_model(name)) {
                public.add(&public_name, name, model.clone());
            }
        }
    }
    for upstream in service.upstreams.iter() {
        let config = &upstream.config;
        if !identity.has_upstream(&config.name) {
            continue;
        }
        for model in config
            .models
            .names()
            .filter(|name| identity.has_model(name))
        {
            public.add(model, &config.name, Map::new());
        }
    }
    match first_error.filter(|_| public.models.is_empty()) {
        Some(error) => Err(open_error_response(&error)),
        None => Ok(public.models),
    }
}

/// `GET /v1/models`
pub(super) async fn list(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let identity = service.identity(&request)?;
    Ok(match offered(&service, &identity).await {
        Ok(models) => HttpResponse::Ok().json(json!({"object": "list", "data": models})),
        Err(response) => response,
    })
}

/// `GET /v1/models/{id}`
pub(super) async fn retrieve(
    request: HttpRequest,
    id: web::Path<String>,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let models = match offered(&service, &service.identity(&request)?).await {
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
