//! Conversations over an upstream that stores nothing and is as strict as api.openai.com: encrypted
//! reasoning, references to items, and responses that only a socket knows.

use crate::support::{Gateway, World, over};
use serde_json::{Value, json};
use tokenwire::config::schema::{
    Api, Config, CustomTools, DeveloperRole, MaxTokensField, ReasoningBack, UnsupportedTools,
    Upstream,
};
use tokenwire_simulator::{Options, Pace, Simulator};

const MODEL: &str = "simulator-reasoning";
const INCLUDE: &str = "reasoning.encrypted_content";

fn simulator(key: Option<&str>) -> Simulator {
    Simulator::start(Options {
        pace: Pace::INSTANT,
        required_key: key.map(str::to_owned),
        ..Options::default()
    })
    .unwrap()
}

fn world(api: Api) -> World {
    let simulator = simulator(None);
    let gateway = over(&simulator.base_url(), api, |_| {});
    World { gateway, simulator }
}

/// Sends a turn and returns its response object.
async fn turn(gateway: &Gateway, body: Value) -> Value {
    let mut body = body;
    body["model"] = MODEL.into();
    let answer = gateway.post("/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let object = answer.json();
    assert_eq!(object["status"], "completed", "{object}");
    object
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

/// Returns the output item of this type.
fn item<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let output = object["output"].as_array().unwrap();
    output.iter().find(|item| item["type"] == kind).unwrap()
}

/// Returns the items of the last request that the upstream got.
fn sent(simulator: &Simulator) -> Vec<Value> {
    let body = simulator.requests().pop().unwrap().body.unwrap();
    body["input"].as_array().unwrap().clone()
}

fn reasoning(items: &[Value]) -> Vec<&Value> {
    let found = items.iter().filter(|item| item["type"] == "reasoning");
    found.collect()
}

#[tokio::test]
async fn encrypted_reasoning_goes_back_with_the_id_it_came_with() {
    for steering in ["", "[[ids=rotate]] "] {
        let world = world(Api::Responses);
        let first = turn(&world, json!({"input": format!("{steering}one")})).await;
        let request = world.simulator.requests().pop().unwrap().body.unwrap();
        assert_eq!(request["store"], false);
        assert_eq!(request["include"], json!([INCLUDE]));
        // Shown to a reader that asks, and only to it.
        assert!(!first.to_string().contains("encrypted_content"), "{first}");
        assert!(!first.to_string().contains("\"tokenwire\""), "{first}");
        let path = format!("/v1/responses/{}?include[]={INCLUDE}", id(&first));
        let shown = world.get(&path).answer().await.json();
        let content = item(&shown, "reasoning")["encrypted_content"].clone();
        assert!(content.is_string(), "{shown}");
        // Its ids hold the response's.
        let suffix = id(&first).strip_prefix("resp_").unwrap();
        for item in first["output"].as_array().unwrap() {
            assert!(item["id"].as_str().unwrap().contains(suffix), "{item}");
        }
        let body = json!({"input": "two", "previous_response_id": id(&first)});
        turn(&world, body).await;
        let items = sent(&world.simulator);
        let [back] = reasoning(&items)[..] else {
            panic!("one reasoning item: {items:?}");
        };
        assert_eq!(back["encrypted_content"], content);
        let theirs = back["id"].as_str().unwrap();
        assert!(!theirs.contains(suffix), "{theirs}");
        assert!(back.get("tokenwire").is_none(), "{back}");
        let others = items.iter().filter(|item| item["type"] != "reasoning");
        assert!(others.clone().count() == 3);
        assert!(
            others.clone().all(|item| item.get("id").is_none()),
            "{items:?}"
        );
    }
}

#[tokio::test]
async fn stream_shows_encrypted_reasoning_only_if_asked_for() {
    let world = world(Api::Responses);
    for (include, expected) in [(json!([]), false), (json!([INCLUDE]), true)] {
        let body = json!({"model": MODEL, "input": "one", "stream": true, "include": include});
        let answer = world.post("/v1/responses", &body).answer().await;
        assert_eq!(answer.text().contains("encrypted_content"), expected);
        assert!(
            !answer.text().contains("\"tokenwire\""),
            "{}",
            answer.text()
        );
        let object: Value = answer
            .events()
            .iter()
            .filter(|event| event.data.contains("response.completed"))
            .map(|event| serde_json::from_str(&event.data).unwrap())
            .next()
            .unwrap();
        let stream = format!("/v1/streams/{}", id(&object["response"]));
        let plain = world.get(&stream).answer().await;
        assert!(!plain.text().contains("encrypted_content"));
    }
}

#[tokio::test]
async fn resent_reasoning_is_recognised_by_its_id() {
    let world = world(Api::Responses);
    for (store, include) in [(true, json!([])), (false, json!([INCLUDE]))] {
        let body = json!({"input": "one", "store": store, "include": include});
        let first = turn(&world, body).await;
        let mut input = vec![json!({"role": "user", "content": "one"})];
        input.extend(first["output"].as_array().unwrap().clone());
        input.push(json!({"role": "user", "content": "two"}));
        turn(&world, json!({"input": input, "store": store})).await;
        let items = sent(&world.simulator);
        assert!(
            reasoning(&items)[0]["encrypted_content"].is_string(),
            "{items:?}"
        );
    }
    // What is not ours and has no content is used by its text, or not at all.
    let input = json!([
        {"type": "reasoning", "id": "rs_unknown", "summary": []},
        {"type": "message", "id": "msg_own", "role": "user", "content": "three"},
    ]);
    turn(&world, json!({"input": input})).await;
    assert_eq!(sent(&world.simulator).len(), 1);
}

#[tokio::test]
async fn refused_reasoning_is_dropped_and_the_request_repeated_once() {
    let world = world(Api::Responses);
    let first = turn(&world, json!({"input": "one"})).await;
    let body = json!({"input": "[[encrypted=refuse]] two", "previous_response_id": id(&first)});
    turn(&world, body).await;
    let requests = world.simulator.requests();
    assert_eq!(requests.len(), 3, "one turn, a refusal, and its repetition");
    assert_eq!(requests[1].status, Some(400));
    let items = sent(&world.simulator);
    assert!(reasoning(&items).is_empty(), "{items:?}");
}

#[tokio::test]
async fn model_without_encrypted_reasoning_is_asked_once() {
    let world = world(Api::Responses);
    for expected in [2, 3] {
        turn(&world, json!({"input": "[[encrypted=unsupported]] one"})).await;
        assert_eq!(world.simulator.requests().len(), expected);
    }
    // The client's own wish is passed on, and so is its refusal.
    let body =
        json!({"model": MODEL, "input": "[[encrypted=unsupported]] one", "include": [INCLUDE]});
    let answer = world.post("/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["param"], "include");
}

#[tokio::test]
async fn conversation_prefers_its_account_and_goes_on_without_reasoning_elsewhere() {
    let (first, second) = (simulator(Some("sk-one")), simulator(Some("sk-two")));
    let of = |simulator: &Simulator, name: &str, key: &str| Upstream {
        name: name.to_owned(),
        base_url: simulator.base_url(),
        api: Api::Responses,
        api_key: Some(key.to_owned().into()),
        ..Upstream::default()
    };
    let upstreams = vec![of(&first, "one", "sk-one"), of(&second, "two", "sk-two")];
    let gateway = over(&first.base_url(), Api::Responses, |config: &mut Config| {
        config.upstreams = upstreams;
        config.retry.attempts = 3;
    });
    let mut last = turn(&gateway, json!({"input": "0"})).await;
    let began = first.requests().len();
    for number in 1..6 {
        let body = json!({"input": number.to_string(), "previous_response_id": id(&last)});
        last = turn(&gateway, body).await;
    }
    // Each turn went where the first one did.
    let (kept, other) = if began == 1 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!((kept.requests().len(), other.requests().len()), (6, 0));
    assert_eq!(reasoning(&sent(&kept)).len(), 5);
    drop(kept);
    let body = json!({"input": "again", "previous_response_id": id(&last)});
    let moved = turn(&gateway, body).await;
    let items = sent(&other);
    assert!(
        items
            .iter()
            .all(|item| item.get("encrypted_content").is_none()),
        "{items:?}"
    );
    // What the other account made goes back to it.
    let body = json!({"input": "and again", "previous_response_id": id(&moved)});
    turn(&gateway, body).await;
    let items = sent(&other);
    let encrypted = items
        .iter()
        .filter(|item| item["encrypted_content"].is_string());
    assert_eq!(encrypted.count(), 1);
}

#[tokio::test]
async fn item_references_resolve_among_kept_items() {
    for api in [Api::Responses, Api::Chat] {
        let world = world(api);
        let first = turn(
            &world,
            json!({"input": [{"role": "user", "content": "one"}]}),
        )
        .await;
        let references = first["output"].as_array().unwrap().iter();
        let references = references.map(|item| json!({"type": "item_reference", "id": item["id"]}));
        let mut input = vec![json!({"role": "user", "content": "one"})];
        input.extend(references);
        input.push(json!({"role": "user", "content": "two"}));
        let second = turn(&world, json!({"input": input})).await;
        let request = world.simulator.requests().pop().unwrap().body.unwrap();
        assert!(!request.to_string().contains("item_reference"), "{request}");
        let said = item(&first, "message")["content"][0]["text"].clone();
        let list = if api == Api::Chat {
            "messages"
        } else {
            "input"
        };
        let texts = request[list].to_string();
        assert!(texts.contains(&said.to_string()), "{request}");
        // A turn that builds on that one has them, too.
        let body = json!({"input": "three", "previous_response_id": id(&second)});
        turn(&world, body).await;
        let request = world.simulator.requests().pop().unwrap().body.unwrap();
        assert!(request[list].to_string().contains(&said.to_string()));
        // Items of the input can be named as well.
        let path = format!("/v1/responses/{}/input_items", id(&first));
        let items = world.get(&path).answer().await.json();
        let own = items["data"][0]["id"].as_str().unwrap();
        turn(
            &world,
            json!({"input": [{"type": "item_reference", "id": own}]}),
        )
        .await;
    }
}

#[tokio::test]
async fn unknown_and_unstored_items_are_not_found() {
    let world = world(Api::Responses);
    let unstored = turn(&world, json!({"input": "one", "store": false})).await;
    let unstored = item(&unstored, "message")["id"].as_str().unwrap();
    let asked = world.simulator.requests().len();
    for unknown in ["msg_none", "rs_AAAAAAAAAAAAAAAAAAAAAAAA0000", unstored] {
        let input = json!([{"type": "item_reference", "id": unknown}]);
        let body = json!({"model": MODEL, "input": input});
        let answer = world.post("/v1/responses", &body).answer().await;
        assert_eq!(answer.status, 404, "{}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(
            error["message"],
            format!("Item with id '{unknown}' not found.")
        );
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("input"), &Value::Null)
        );
    }
    assert_eq!(world.simulator.requests().len(), asked);
}

#[tokio::test]
async fn socket_may_name_its_own_unstored_responses() {
    for api in [Api::Responses, Api::Chat] {
        let world = world(api);
        let mut socket = world.socket().await;
        let create = |members: Value| {
            crate::support::with(
                json!({"type": "response.create", "model": MODEL, "store": false}),
                members,
            )
        };
        socket.send(create(json!({"input": "one"}))).await;
        let events = socket.until_end().await;
        let first = events.last().unwrap()["response"].clone();
        let body = json!({"input": "two", "previous_response_id": id(&first)});
        socket.send(create(body.clone())).await;
        let events = socket.until_end().await;
        assert_eq!(events.last().unwrap()["type"], "response.completed");
        let request = world.simulator.requests().pop().unwrap().body.unwrap();
        assert!(request.to_string().contains("\"one\""), "{request}");
        let reference = json!({"type": "item_reference", "id": item(&first, "message")["id"]});
        socket.send(create(json!({"input": [reference]}))).await;
        let events = socket.until_end().await;
        assert_eq!(events.last().unwrap()["type"], "response.completed");
        // Another socket does not know them.
        let mut other = world.socket().await;
        other.send(create(body)).await;
        let error = other.next().await;
        assert_eq!(error["error"]["code"], "previous_response_not_found");
        assert_eq!(error["status"], 404);
    }
}

#[tokio::test]
async fn failed_continuation_makes_the_socket_forget_the_response() {
    for (api, input) in [
        // Refused by the upstream, in the middle of the answer, and before the upstream is asked.
        (
            Api::Responses,
            json!([{"type": "function_call_output", "call_id": "call_x", "output": "o"}]),
        ),
        (
            Api::Chat,
            json!([{"type": "function_call_output", "call_id": "call_x", "output": "o"}]),
        ),
        (Api::Responses, json!("[[fault=cut after=3]]")),
        (
            Api::Chat,
            json!([{"type": "computer_call_output", "call_id": "call_x", "output": {}}]),
        ),
    ] {
        let world = world(api);
        let mut socket = world.socket().await;
        let create = |members: Value| {
            crate::support::with(
                json!({"type": "response.create", "model": MODEL, "store": false}),
                members,
            )
        };
        socket.send(create(json!({"input": "one"}))).await;
        let events = socket.until_end().await;
        let first = events.last().unwrap()["response"]["id"].clone();
        let failing = json!({"input": input, "previous_response_id": first});
        socket.send(create(failing)).await;
        let events = socket
            .until(|event| {
                ["response.failed", "response.completed", "error"]
                    .contains(&event["type"].as_str().unwrap())
            })
            .await;
        let end = &events.last().unwrap()["type"];
        assert!(end == "response.failed" || end == "error", "{end}");
        let again = json!({"input": "two", "previous_response_id": first});
        socket.send(create(again)).await;
        let error = socket.next().await;
        assert_eq!(
            error["error"]["code"], "previous_response_not_found",
            "{error}"
        );
        // A chain of its own goes on.
        socket.send(create(json!({"input": "three"}))).await;
        let events = socket.until_end().await;
        assert_eq!(events.last().unwrap()["type"], "response.completed");
    }
}

#[tokio::test]
async fn create_without_generation_can_be_continued() {
    for (api, store) in [
        (Api::Responses, false),
        (Api::Chat, false),
        (Api::Chat, true),
    ] {
        let world = world(api);
        let mut socket = world.socket().await;
        let create = json!({"type": "response.create", "model": MODEL, "store": store});
        let warm = json!({"input": "remember this", "generate": false});
        socket
            .send(crate::support::with(create.clone(), warm))
            .await;
        let events = socket.until_end().await;
        let response = &events.last().unwrap()["response"];
        assert_eq!(events[0]["type"], "response.created");
        assert_eq!(response["status"], "completed", "{response}");
        assert_eq!(response["output"], json!([]));
        assert!(world.simulator.requests().is_empty());
        let next = json!({"input": "go", "previous_response_id": response["id"]});
        socket.send(crate::support::with(create, next)).await;
        let events = socket.until_end().await;
        assert_eq!(events.last().unwrap()["type"], "response.completed");
        let request = world.simulator.requests().pop().unwrap().body.unwrap();
        assert!(request.to_string().contains("remember this"), "{request}");
    }
    let world = world(Api::Chat);
    let body = json!({"input": "one", "generate": false});
    let answer = world.post("/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 400, "only a socket can use it");
}

#[tokio::test]
async fn compact_and_input_tokens_are_relayed_with_the_conversation() {
    let world = world(Api::Responses);
    let first = turn(&world, json!({"input": "one two three"})).await;
    let ask = |path: &str, body: Value| {
        world.post(path, &crate::support::with(json!({"model": MODEL}), body))
    };
    let body = json!({"input": "four", "previous_response_id": id(&first)});
    let answer = ask("/v1/responses/input_tokens", body.clone())
        .answer()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let counted = answer.json()["input_tokens"].as_u64().unwrap();
    let alone = ask("/v1/responses/input_tokens", json!({"input": "four"}))
        .answer()
        .await;
    assert!(counted > alone.json()["input_tokens"].as_u64().unwrap());
    for body in [body, json!({"previous_response_id": id(&first)})] {
        let answer = ask("/v1/responses/compact", body).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let compacted = answer.json();
        assert_eq!(compacted["object"], "response.compaction");
        // Its output is the next input.
        let mut input = compacted["output"].as_array().unwrap().clone();
        input.push(json!({"role": "user", "content": "five"}));
        turn(&world, json!({"input": input})).await;
    }
    let unknown = json!({"input": "four", "previous_response_id": "resp_none"});
    let answer = ask("/v1/responses/compact", unknown).answer().await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn sealed_reasoning_goes_back_to_a_chat_upstream() {
    let world = world(Api::Chat);
    let tools = json!([{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]);
    let user =
        json!({"role": "user", "content": "[[reasoning_back=required reasoning=3 calls=1]]"});
    let ask = |input: Vec<Value>| json!({"model": MODEL, "store": false, "include": [INCLUDE], "tools": tools, "input": input});
    let first = turn(&world, ask(vec![user.clone()])).await;
    let reasoning = item(&first, "reasoning");
    let sealed = reasoning["encrypted_content"].as_str().unwrap();
    assert!(sealed.starts_with("tw1."), "{sealed}");
    // As a client sends it that keeps nothing else.
    let back = |content: &str| json!({"type": "reasoning", "id": reasoning["id"], "summary": [], "encrypted_content": content});
    let call = item(&first, "function_call");
    let output =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
    let rest = |content: &str| vec![user.clone(), back(content), call.clone(), output.clone()];
    turn(&world, ask(rest(sealed))).await;
    let request = world.simulator.requests().pop().unwrap().body.unwrap();
    let text = &reasoning["content"][0]["text"];
    assert_eq!(
        &request["messages"][1]["reasoning_content"], text,
        "{request}"
    );
    // As a client sends it that sorts items by their ends.
    let late = vec![user.clone(), call.clone(), back(sealed), output.clone()];
    turn(&world, ask(late)).await;
    let request = world.simulator.requests().pop().unwrap().body.unwrap();
    assert_eq!(
        &request["messages"][1]["reasoning_content"], text,
        "{request}"
    );
    // What was changed is dropped, and the upstream says what it lacks.
    let changed = sealed.replace("tw1.", "tw1.AAAA");
    let answer = world
        .post("/v1/responses", &ask(rest(&changed)))
        .answer()
        .await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    // Without `include` nothing is sealed.
    let mut plain = ask(vec![user.clone()]);
    plain["include"] = json!([]);
    let plain = turn(&world, plain).await;
    assert!(!plain.to_string().contains("encrypted_content"), "{plain}");
}

#[tokio::test]
async fn settings_of_a_chat_upstream_come_from_the_configuration() {
    let simulator = simulator(None);
    let gateway = over(&simulator.base_url(), Api::Chat, |config| {
        let upstream = &mut config.upstreams[0];
        upstream.chat.max_tokens_field = MaxTokensField::MaxTokens;
        upstream.chat.developer_role = DeveloperRole::Developer;
        upstream.chat.custom_tools = CustomTools::Custom;
        upstream.chat.reasoning_back = ReasoningBack::Reasoning;
    });
    let input = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "x"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "custom_tool_call", "call_id": "1", "name": "note", "input": "a"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "b"},
    ]);
    let body = json!({"input": input, "max_output_tokens": 50, "tools": [{"type": "custom", "name": "note"}]});
    let body = crate::support::with(body, json!({"model": MODEL}));
    let answer = gateway.post("/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("tokenwire-dropped-tools"), None);
    let sent = simulator.requests().pop().unwrap().body.unwrap();
    assert_eq!(
        (&sent["max_tokens"], &sent["max_completion_tokens"]),
        (&json!(50), &Value::Null)
    );
    assert_eq!(sent["messages"][0]["role"], "developer");
    assert_eq!(sent["tools"][0]["type"], "custom");
    assert_eq!(sent["messages"][2]["reasoning"], "hm");
    assert_eq!(sent["messages"][2]["tool_calls"][0]["type"], "custom");
}

#[tokio::test]
async fn client_is_told_which_tools_were_left_out() {
    let tools = json!([{"type": "web_search"}, {"type": "file_search", "vector_store_ids": ["v"]}]);
    let body = json!({"model": MODEL, "input": "x", "tools": tools});
    let simulator = simulator(None);
    let refusing = over(&simulator.base_url(), Api::Chat, |_| {});
    let answer = refusing.post("/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["error"]["param"], "tools[0].type");
    assert!(simulator.requests().is_empty());

    let gateway = over(&simulator.base_url(), Api::Chat, |config| {
        config.upstreams[0].chat.unsupported_tools = UnsupportedTools::Drop;
    });
    for stream in [false, true] {
        let body = crate::support::with(body.clone(), json!({"stream": stream}));
        let answer = gateway.post("/v1/responses", &body).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let dropped = answer.header("tokenwire-dropped-tools");
        assert_eq!(dropped, Some("web_search, file_search"));
    }
    let sent = simulator.requests().pop().unwrap().body.unwrap();
    assert_eq!(sent["tools"], Value::Null);

    let create = crate::support::with(
        json!({"type": "response.create", "stream_id": "a"}),
        body.clone(),
    );
    let address = gateway.address;
    let mut extended = crate::support::Socket::connect_extended(address, "/v1/ws").await;
    extended.send(create.clone()).await;
    let told = extended.next().await;
    let created = extended.next().await;
    assert_eq!(created["type"], "response.created");
    assert_eq!(
        told,
        json!({"type": "tokenwire:tools_dropped", "response_id": created["response"]["id"],
            "tools": ["web_search", "file_search"], "stream_id": "a"})
    );
    extended.until_end().await;
    // The SDKs fail on types of event that they do not know.
    let mut plain = gateway.socket().await;
    plain.send(create).await;
    for event in plain.until_end().await {
        let kind = event["type"].as_str().unwrap();
        assert!(!kind.starts_with("tokenwire:"), "{event}");
    }
}
