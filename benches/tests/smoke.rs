//! The whole program against a small stateless server: the id of a stream contains its number of
//! tokens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};

use serde_json::Value;

/// A fault of the server at token 3.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    Lost,
    Doubled,
    CutOff,
}

/// Starts a server that runs until the test process ends. Returns its URL.
fn serve(flaw: Flaw) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || connection(&socket, flaw));
        }
    });
    url
}

/// Answers requests until the client closes the connection.
fn connection(socket: &TcpStream, flaw: Flaw) -> Option<()> {
    let mut reader = BufReader::new(socket);
    let mut out = socket;
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|length| *length > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let (mut length, mut last_id) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok()?,
                "last-event-id" => {
                    last_id = value
                        .rsplit('.')
                        .next()
                        .and_then(|number| number.parse::<u64>().ok())
                }
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if path == "/v1/ws" {
            write!(out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").ok()?;
            return web_socket(&mut reader, out, flaw);
        }
        let chat = path == "/v1/chat/completions";
        let tokens = path
            .rsplit_once("resp_")
            .map_or_else(|| tokens_in(&body), |(_, tokens)| tokens.parse().ok())?;
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nLocation: /v1/streams/resp_{tokens}\r\n\r\n"
        )
        .ok()?;
        let first = last_id.map_or(0, |last| last + 1);
        for (number, json) in events(tokens, chat, flaw)
            .into_iter()
            .filter(|(number, _)| *number >= first)
        {
            let event = if chat {
                format!("data: {json}\n\n")
            } else {
                format!("id: resp_{tokens}.{number}\ndata: {json}\n\n")
            };
            write!(out, "{:x}\r\n{event}\r\n", event.len()).ok()?;
        }
        if flaw == Flaw::CutOff {
            return None;
        }
        write!(out, "0\r\n\r\n").ok()?;
    }
}

fn web_socket(reader: &mut impl Read, mut out: impl Write, flaw: Flaw) -> Option<()> {
    loop {
        let message = String::from_utf8(client_frame(reader)?).ok()?;
        let json: Value = serde_json::from_str(&message).ok()?;
        let (tokens, first) = match json["type"].as_str()? {
            "response.create" => (tokens_in(message.as_bytes())?, 0),
            _ => {
                let tokens = json["response_id"]
                    .as_str()?
                    .strip_prefix("resp_")?
                    .parse()
                    .ok()?;
                (
                    tokens,
                    json["starting_after"].as_u64().map_or(0, |after| after + 1),
                )
            }
        };
        for (_, json) in events(tokens, false, flaw)
            .into_iter()
            .filter(|(number, _)| *number >= first)
        {
            let mut frame = vec![0x81];
            match u8::try_from(json.len()) {
                Ok(length @ 0..=125) => frame.push(length),
                _ => {
                    frame.push(126);
                    frame.extend_from_slice(&u16::try_from(json.len()).ok()?.to_be_bytes());
                }
            }
            frame.extend_from_slice(json.as_bytes());
            out.write_all(&frame).ok()?;
        }
    }
}

fn client_frame(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).ok()?;
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        let mut long = [0; 2];
        reader.read_exact(&mut long).ok()?;
        length = usize::from(u16::from_be_bytes(long));
    }
    let mut mask = [0; 4];
    reader.read_exact(&mut mask).ok()?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).ok()?;
    payload
        .iter_mut()
        .enumerate()
        .for_each(|(at, byte)| *byte ^= mask[at % 4]);
    Some(payload)
}

/// Returns the events with their numbers. The fault is the same for all readers.
fn events(tokens: u64, chat: bool, flaw: Flaw) -> Vec<(u64, String)> {
    let mut texts: Vec<u64> = (0..tokens).collect();
    match flaw {
        Flaw::None | Flaw::CutOff => {}
        Flaw::Lost => texts.retain(|token| *token != 3),
        Flaw::Doubled => texts.insert(3, 3),
    }
    let mut events = Vec::new();
    if !chat {
        events.push(format!(r#"{{"type":"response.created","sequence_number":0,"response":{{"id":"resp_{tokens}"}}}}"#));
    }
    for token in texts {
        let number = events.len();
        events.push(if chat {
            format!(r#"{{"choices":[{{"index":0,"delta":{{"content":" t{token}"}}}}]}}"#)
        } else {
            format!(r#"{{"type":"response.output_text.delta","sequence_number":{number},"delta":" t{token}"}}"#)
        });
    }
    let number = events.len();
    if flaw != Flaw::CutOff {
        events.push(if chat {
            "[DONE]".to_owned()
        } else {
            format!(r#"{{"type":"response.completed","sequence_number":{number},"response":{{"id":"resp_{tokens}"}}}}"#)
        });
    }
    (0..).zip(events).collect()
}

fn tokens_in(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let digits = text.split_once("tokens=")?.1;
    digits.get(..digits.find(' ')?)?.parse().ok()
}

/// Runs the bench with these arguments against the server. Returns its output and its JSON.
fn bench(url: &str, arguments: &str) -> (Output, Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tokenwire-bench"))
        .args(arguments.split(' '))
        .args([
            "--url",
            url,
            "--alone",
            "--no-pin",
            "--no-build",
            "--rounds",
            "1",
            "--json",
        ])
        .arg(file.path())
        .output()
        .unwrap();
    let json =
        serde_json::from_str(&std::fs::read_to_string(file.path()).unwrap()).unwrap_or(Value::Null);
    (output, json)
}

#[test]
fn each_scenario_counts_all_tokens_of_a_correct_server() {
    let url = serve(Flaw::None);
    // arguments, and the tokens that each run delivers
    let table = [
        (
            "paced -n 7 --tokens 30 --tbt 0 --ramp 10ms -r chat,responses,streams,ws",
            210,
        ),
        ("saturated -n 3 --tokens 2000 -r chat,ws", 6000),
        ("short -n 4 --requests 50 -r chat,responses,ws", 250),
        ("replay --tokens 3000 --requests 4 -r streams,ws", 12_000),
        ("storm -n 6 --tokens 400 -r streams,ws", 2400),
    ];
    for (arguments, tokens) in table {
        let (output, json) = bench(&url, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments}: {told}\n{json:#}"
        );
        let runs = json["runs"].as_array().unwrap();
        assert_eq!(
            runs.len(),
            arguments.rsplit(' ').next().unwrap().split(',').count(),
            "{arguments}"
        );
        for run in runs {
            assert_eq!(run["tokens"], tokens, "{arguments}: {run:#}");
            assert_eq!(
                (&run["lost"], &run["doubled"], &run["broken"]),
                (&0.into(), &0.into(), &0.into()),
                "{run:#}"
            );
        }
    }
}

#[test]
fn fanout_delivers_the_stream_to_each_reader() {
    let url = serve(Flaw::None);
    let (output, json) = bench(&url, "fanout -n 9 --tokens 200 --tbt 0 -r streams,ws");
    assert_eq!(output.status.code(), Some(0), "{json:#}");
    for run in json["runs"].as_array().unwrap() {
        // This server does not wait for readers, so some tokens precede the measured part.
        let early: f64 = run["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, value)| value.as_f64())
            .sum();
        assert_eq!(
            run["tokens"].as_f64().unwrap() + early,
            10.0 * 200.0,
            "{run:#}"
        );
        assert_eq!(
            (&run["lost"], &run["doubled"], &run["broken"]),
            (&0.into(), &0.into(), &0.into()),
            "{run:#}"
        );
    }
}

#[test]
fn storm_cuts_connections() {
    let (_, json) = bench(&serve(Flaw::None), "storm -n 6 --tokens 400 -r streams,ws");
    for run in json["runs"].as_array().unwrap() {
        assert!(run["extra"]["cuts"].as_f64().unwrap() > 6.0, "{run:#}");
    }
}

#[test]
fn faults_are_counted_and_fail_the_run() {
    let table = [
        (Flaw::Lost, (1, 0, 0)),
        (Flaw::Doubled, (0, 1, 0)),
        (Flaw::CutOff, (0, 0, 1)),
    ];
    for (flaw, (lost, doubled, broken)) in table {
        let url = serve(flaw);
        for route in ["chat", "responses"] {
            let (output, json) = bench(&url, &format!("saturated -n 5 --tokens 10 -r {route}"));
            assert_eq!(output.status.code(), Some(1), "{json:#}");
            let run = &json["runs"][0];
            let each = |count: u64| Value::from(count * 5);
            assert_eq!(
                (&run["lost"], &run["doubled"], &run["broken"]),
                (&each(lost), &each(doubled), &each(broken)),
                "{run:#}"
            );
        }
    }
}

#[test]
fn refused_connections_fail_the_run() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let (output, json) = bench(&url, "saturated -n 2 --tokens 5");
    assert_eq!(output.status.code(), Some(1));
    let run = &json["runs"][0];
    assert_eq!((&run["broken"], &run["lost"]), (&2.into(), &10.into()));
    assert!(
        run["complaints"][0].as_str().unwrap().contains("refused"),
        "{run:#}"
    );
}

#[test]
fn plots_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = format!(
        "paced -n 3 --tokens 30 --tbt 1ms --ramp 1ms --svg {}",
        dir.path().display()
    );
    let (output, _) = bench(&serve(Flaw::None), &arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["paced-first-token.svg", "paced-delay.svg"] {
        let plot = std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(
            plot.starts_with("<svg") && plot.contains("127.0.0.1"),
            "{name}"
        );
    }
}

#[test]
fn failed_peer_is_recorded_and_others_are_measured() {
    let url = serve(Flaw::None);
    let broken = "exits=sh -c 'echo it cannot start >&2; exit 3' {port}";
    let file = tempfile::NamedTempFile::new().unwrap();
    // The gateway needs a simulator; no target uses it.
    let dir = tempfile::tempdir().unwrap();
    let idle = dir.path().join("idle");
    std::fs::write(&idle, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&idle, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tokenwire-bench"))
        .args([
            "saturated",
            "-n",
            "2",
            "--tokens",
            "10",
            "--url",
            &url,
            "--gateway",
            broken,
            "--alone",
            "--no-pin",
            "--no-build",
        ])
        .arg("--simulator")
        .arg(&idle)
        .args([
            "--simulator-port",
            &listening().to_string(),
            "--rounds",
            "1",
            "--json",
        ])
        .arg(file.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    // A named target that cannot be measured fails the run.
    assert_eq!(output.status.code(), Some(2), "{told}");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
    assert_eq!(json["runs"].as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!(json["runs"][0]["tokens"], 20);
    let failure = &json["failures"][0];
    assert_eq!(
        (&failure["scenario"], &failure["target"]),
        (&"saturated".into(), &"exits".into())
    );
    assert!(
        failure["why"].as_str().unwrap().contains("it cannot start"),
        "{json:#}"
    );
}

/// Returns a port that accepts connections until the test process ends.
fn listening() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

#[test]
fn page_is_generated_from_records() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("results");
    std::fs::create_dir(&records).unwrap();
    let url = serve(Flaw::None);
    for (name, arguments) in [
        ("paced", "paced -n 3 --tokens 20 --tbt 1ms --ramp 1ms"),
        ("storm", "storm -n 3 --tokens 200 -r streams,ws"),
    ] {
        let (output, json) = bench(&url, arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut json = json;
        json["failures"] =
            serde_json::json!([{"scenario": name, "target": "smg", "why": "it is not here"}]);
        std::fs::write(records.join(format!("{name}.json")), json.to_string()).unwrap();
    }
    std::fs::write(
        dir.path().join("OPTIMISATIONS.md"),
        "# Work\n\n## Copies\n\nFewer.\n",
    )
    .unwrap();
    let page = dir.path().join("RESULTS.md");
    let render = || {
        let output = Command::new(env!("CARGO_BIN_EXE_tokenwire-bench"))
            .args(["results", "--from"])
            .arg(&records)
            .arg("--out")
            .arg(&page)
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::read_to_string(&page).unwrap()
    };
    let text = render();
    for part in [
        "## Paced streams",
        "## Cut and resumed",
        "| smg: not measured: it is not here",
        "### Copies",
        &url,
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    for link in text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        assert!(link.starts_with("results/"), "{link}");
    }
    for plot in ["paced-first-token.svg", "paced-delay.svg"] {
        assert!(
            std::fs::read_to_string(records.join(plot))
                .unwrap()
                .starts_with("<svg"),
            "{plot}"
        );
    }
    assert_eq!(render(), text, "the same records make the same page");
}

#[test]
fn page_without_records_names_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tokenwire-bench"))
        .args(["results", "--from"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("measure with `tokenwire-bench results`")
    );
}
