//! The documentation describes every served route and no other.
#![expect(clippy::unwrap_used, reason = "a failed precondition fails the test")]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{Request, World, start};

/// Where routes are registered.
const TABLES: [&str; 2] = [
    include_str!("../src/http/routes.rs"),
    include_str!("../src/http/documentation.rs"),
];
/// Parts of a page that no other client requests.
const UNDOCUMENTED: &[&str] = &["/docs/docs.css"];

/// Returns `(path, method)` of every route in the tables.
fn registered() -> BTreeSet<(String, String)> {
    let calls = TABLES
        .iter()
        .flat_map(|table| table.split("resource(").skip(1));
    // The first two arguments of a call are the path and the methods. The function's own definition
    // has no string there.
    let literals = calls
        .filter(|rest| rest.trim_start().starts_with('"'))
        .map(|rest| {
            let mut strings = rest.split('"').skip(1).step_by(2);
            (strings.next().unwrap(), strings.next().unwrap())
        });
    let documented = literals.filter(|(path, _)| !UNDOCUMENTED.contains(path));
    documented
        .flat_map(|(path, methods)| {
            let path = path.replace(":.+}", "}");
            methods
                .replace(" (WebSocket)", "")
                .split(", ")
                .map(|method| (path.clone(), method.to_owned()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Returns `(path, method)` of every operation in the document.
fn described(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, operations)| {
            operations
                .as_object()
                .unwrap()
                .keys()
                .map(|method| (path.clone(), method.to_uppercase()))
        })
        .collect()
}

async fn document(world: &World) -> Value {
    let answer = world.get("/openapi.json").answer().await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    answer.json()
}

#[tokio::test]
async fn openapi_document_lists_exactly_the_registered_routes() {
    let world = start(|_| {});
    let registered = registered();
    assert!(
        registered.len() > 15,
        "the route table was not found: {registered:?}"
    );
    assert_eq!(described(&document(&world).await), registered);
}

#[tokio::test]
async fn documented_methods_are_served_and_others_get_405() {
    let world = start(|_| {});
    let described = described(&document(&world).await);
    for (path, _) in &described {
        let concrete = path
            .replace("/v1/models/{id}", "/v1/models/simulator")
            .replace("{id}", "resp_0000000000000000000000");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = Request::new(world.address, method, &concrete)
                .answer()
                .await;
            let code = if answer.status < 400 {
                Value::Null
            } else {
                answer.json()["error"]["code"].clone()
            };
            assert_ne!(code, "unknown_url", "{method} {path}");
            // A WebSocket path cannot be fetched without an upgrade. One of the two answers 405
            // then.
            let is_upgrade = path == "/v1/responses" && method == "GET";
            let is_described = described.contains(&(path.clone(), method.to_owned()));
            assert_eq!(
                code != "method_not_allowed",
                is_described && !is_upgrade,
                "{method} {path}: {code}"
            );
        }
    }
}

#[tokio::test]
async fn answers_match_the_documented_status_and_content_type() {
    let world = start(|_| {});
    let document = document(&world).await;
    let id = world
        .post("/v1/responses", &json!({"input": "[[tokens=3]]"}))
        .answer()
        .await
        .id()
        .to_owned();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Some(get) = operations.get("get") else {
            continue;
        };
        // Skips routes that need query parameters, and WebSockets.
        let takes = get["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|parameter| parameter["required"] == true && parameter["in"] == "query");
        if takes || get["responses"].get("101").is_some() {
            continue;
        }
        let concrete = path
            .replace("/v1/models/{id}", "/v1/models/simulator")
            .replace("{id}", &id);
        let answer = world.get(&concrete).answer().await;
        let described = get["responses"]
            .get(answer.status.to_string())
            .unwrap_or_else(|| panic!("{concrete}: {}", answer.status));
        let kind = answer
            .header("content-type")
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        assert!(
            described["content"].get(&kind).is_some(),
            "{concrete}: {kind} is not in {}",
            described["content"]
        );
        let schema = &described["content"][&kind]["schema"]["$ref"];
        let schema = document
            .pointer(schema.as_str().unwrap().trim_start_matches('#'))
            .unwrap();
        for member in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|_| kind == "application/json")
        {
            assert!(
                answer.json().get(member.as_str().unwrap()).is_some(),
                "{concrete} has no {member}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn documentation_page_loads_nothing_from_other_origins() {
    let world = start(|_| {});
    for (path, kind) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/docs.css", "text/css; charset=utf-8"),
    ] {
        let answer = world.get(path).answer().await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(kind))
        );
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'self';")
        );
        for part in ["url(", "@import", "src=", "<script", "href=\"http"] {
            assert!(!answer.text().contains(part), "{path}: {part}");
        }
    }
}
