//! The description as an OpenAPI 3.1 document, served at `/openapi.json`.

use serde_json::{Map, Value, json};
use tokenwire_core::model::error::{ErrorCode, Fault};

use super::operations::{Group, Kind, OPERATIONS, Operation, Parameter, Place};
use super::schemas::{COMMANDS, EVENTS, Message, REPLIES, schemas};

/// Returns the document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = describe(operation);
    }
    let tags: Vec<Value> = Group::ALL
        .iter()
        .map(|group| json!({"name": group.name(), "description": group.about()}))
        .collect();
    let errors: Vec<Value> = ErrorCode::ALL.iter().map(|code| error(*code)).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tokenwire",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "One durable, numbered token stream per answer, over SSE and WebSocket. HEAD is served beside every GET that starts nothing.",
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {"schemas": schemas()},
        // Extensions: OpenAPI has no place for these.
        "x-error-codes": errors,
        "x-events": messages(EVENTS),
        "x-websocket": {"commands": messages(COMMANDS), "replies": messages(REPLIES)},
    })
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.group.name()],
        "summary": operation.summary,
        "description": operation.about,
        "parameters": operation.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "responses": responses(operation),
        "x-codeSamples": [{"lang": "Shell", "label": "curl", "source": operation.example}],
    });
    if let Some(schema) = operation.body {
        described["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": reference(schema)}}});
    }
    described
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Number => json!({"type": "integer", "minimum": 0}),
        Kind::Switch => json!({"type": "boolean", "default": false}),
        Kind::OneOf(values) => json!({"enum": values, "default": values.first()}),
    };
    let (place, required) = match parameter.place {
        Place::Path => ("path", true),
        Place::Query => ("query", false),
        Place::RequiredQuery => ("query", true),
        Place::Header => ("header", false),
    };
    json!({"name": parameter.name, "in": place, "required": required, "description": parameter.about, "schema": schema})
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for answer in operation.answers {
        let mut described = json!({"description": answer.about});
        if !answer.content.is_empty() {
            let content: Map<String, Value> = answer
                .content
                .iter()
                .map(|(media, schema)| ((*media).to_owned(), json!({"schema": reference(schema)})))
                .collect();
            described["content"] = Value::Object(content);
        }
        responses.insert(answer.status.to_string(), described);
    }
    for code in operation.errors {
        let described = responses
            .entry(code.status().to_string())
            .or_insert_with(|| json!({"description": "", "content": {"application/json": {"schema": reference("Error")}}}));
        let known = described["description"].as_str().unwrap_or_default();
        let line = format!("`{code}`: {}", code.remedy());
        described["description"] = Value::from(if known.is_empty() {
            line
        } else {
            format!("{known}\n\n{line}")
        });
    }
    Value::Object(responses)
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn error(code: ErrorCode) -> Value {
    json!({
        "code": code.as_str(),
        "status": code.status(),
        "fault": fault(code.fault()),
        "retryable": code.retryable(),
        "remedy": code.remedy(),
    })
}

/// Returns the party at fault, in a word.
pub(super) const fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Client => "client",
        Fault::Upstream => "upstream",
        Fault::Gateway => "gateway",
    }
}

fn messages(messages: &[Message]) -> Vec<Value> {
    messages
        .iter()
        .map(|message| json!({"type": message.kind, "description": message.about}))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every `$ref` in the document.
    fn references<'a>(value: &'a Value, found: &mut HashSet<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn references_resolve_and_every_schema_is_used() {
        let document = document();
        let mut used = HashSet::new();
        references(&document, &mut used);
        for reference in &used {
            assert!(
                document
                    .pointer(reference.trim_start_matches('#'))
                    .is_some(),
                "{reference} does not resolve"
            );
        }
        for name in document["components"]["schemas"]
            .as_object()
            .unwrap()
            .keys()
        {
            // WebSocket messages belong to no path.
            let is_used = used.contains(format!("#/components/schemas/{name}").as_str())
                || ["Command", "Reply"].contains(&name.as_str());
            assert!(is_used, "nothing refers to {name}");
        }
    }

    #[test]
    fn operations_are_unique_and_declare_path_parameters() {
        let mut ids = HashSet::new();
        let mut places = HashSet::new();
        for operation in OPERATIONS {
            assert!(ids.insert(operation.id), "{} is listed twice", operation.id);
            assert!(
                places.insert((operation.method, operation.path)),
                "{} {} is listed twice",
                operation.method,
                operation.path
            );
            let declared = operation
                .parameters
                .iter()
                .filter(|parameter| parameter.place == Place::Path)
                .count();
            assert_eq!(
                operation.path.matches('{').count(),
                declared,
                "{}",
                operation.path
            );
            let codes: HashSet<_> = operation.errors.iter().collect();
            assert_eq!(
                codes.len(),
                operation.errors.len(),
                "{} names an error twice",
                operation.id
            );
            assert!(
                operation.example.contains("localhost:3000"),
                "{} shows no command",
                operation.id
            );
        }
    }

    #[test]
    fn document_lists_every_error_code_with_remedy() {
        let document = document();
        let listed = document["x-error-codes"].as_array().unwrap();
        assert_eq!(listed.len(), ErrorCode::ALL.len());
        for (listed, code) in listed.iter().zip(ErrorCode::ALL) {
            assert_eq!(listed["code"], code.as_str());
            assert_eq!(listed["status"], code.status());
            assert_eq!(listed["remedy"], code.remedy());
        }
        let names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(
            document["components"]["schemas"]["ErrorCode"]["enum"],
            json!(names)
        );
    }
}
