//! The documentation describes every served route and no other.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Request, World, eventually, start};
use serde_json::{Value, json};
use tokenwire::config::schema::Upstream;
use tokenwire::config::{Applies, Config};
use tokenwire_core::model::error::ErrorCode;

/// Where routes are registered.
const TABLES: [&str; 2] = [
    include_str!("../../src/http/routes.rs"),
    include_str!("../../src/http/documentation.rs"),
];
/// Parts of a page that no other client requests, and the second name of `/healthz`.
const UNDOCUMENTED: &[&str] = &["/docs/docs.css", "/health"];
/// A request whose answer goes on until the client leaves.
const ENDLESS: (&str, &str) = ("/v1/activity", "GET");

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
                // HEAD is beside every GET that starts nothing.
                .filter(|method| *method != "HEAD")
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
            .replace("{page}", "configuration")
            .replace("{id}", "resp_0000000000000000000000");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if (path.as_str(), method) == ENDLESS {
                continue;
            }
            let answer = Request::new(world.address, method, &concrete)
                .answer()
                .await;
            let code = if answer.status < 400 {
                Value::Null
            } else {
                answer.json()["error"]["code"].clone()
            };
            // Over a chat upstream these are not served.
            let relayed = ["/v1/responses/compact", "/v1/responses/input_tokens"];
            if !relayed.contains(&path.as_str()) {
                assert_ne!(code, "unknown_url", "{method} {path}");
            }
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
        if (path.as_str(), "GET") == ENDLESS {
            continue;
        }
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
            .replace("{page}", "configuration")
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
        ("/docs/api", "text/html; charset=utf-8"),
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
        for part in ["url(", "@import", "src=", "<script"] {
            assert!(!answer.text().contains(part), "{path}: {part}");
        }
    }
}

// === the reference pages ===

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.md"))
}

/// The names of the Markdown files.
fn page_names() -> BTreeSet<String> {
    fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"))
        .unwrap()
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.trim_end_matches(".md").to_owned()
        })
        .collect()
}

/// Compares a generated part of a page with what it must be.
///
/// After a change of `config/tokenwire.yaml` or of the error codes, write the pages again:
/// `UPDATE_DOCS=1 cargo test -p tokenwire --test documentation`.
fn assert_generated(name: &str, expected: &str) {
    const BEGIN: &str = "<!-- generated: see tests/documentation.rs -->\n";
    const END: &str = "<!-- end of the generated part -->\n";
    let path = page_file(name);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            found, expected,
            "docs/{name}.md is out of date: UPDATE_DOCS=1 cargo test -p tokenwire --test documentation"
        );
    }
}

/// One key of the shipped configuration file.
struct Key {
    path: String,
    default: String,
    about: String,
}

/// A top-level key of the shipped file, what is said about it, and the keys below it.
struct Section {
    name: String,
    about: String,
    keys: Vec<Key>,
}

/// Reads the shipped configuration file: comments stand above a key, or behind it in the commented
/// example of an upstream.
fn shipped_configuration() -> Vec<Section> {
    let text = fs::read_to_string(repository().join("config/tokenwire.yaml")).unwrap();
    let mut sections: Vec<Section> = Vec::new();
    let mut comment = String::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut in_example = false;
    // An example after an empty line of a comment is for the file alone.
    let mut is_over = false;
    for line in text.lines() {
        if line == "# upstreams:" {
            in_example = true;
            sections.push(Section {
                name: "upstreams".to_owned(),
                about: std::mem::take(&mut comment),
                keys: Vec::new(),
            });
            parents = vec![(0, "upstreams[]".to_owned())];
            continue;
        }
        if line == "upstreams: []" {
            in_example = false;
            continue;
        }
        let line = if in_example { &line[2..] } else { line };
        let content = line.trim_start_matches([' ', '-']);
        let indent = line.len() - content.len();
        if let Some(text) = content.strip_prefix('#') {
            is_over |= text.is_empty() && indent > 0 && !in_example;
            if is_over {
                continue;
            }
            let about = match sections.last_mut() {
                Some(section) if in_example => &mut section.keys.last_mut().unwrap().about,
                _ => &mut comment,
            };
            about.push(' ');
            about.push_str(text.trim());
            continue;
        }
        is_over = false;
        let Some((name, value)) = content.split_once(':') else {
            comment.clear();
            continue;
        };
        let (value, behind) = value.split_once(" # ").unwrap_or((value, ""));
        let about = match behind {
            "" => std::mem::take(&mut comment),
            behind => behind.to_owned(),
        };
        let (name, value) = (name.to_owned(), value.trim().to_owned());
        while parents
            .last()
            .is_some_and(|(depth, _)| *depth >= indent && indent > 0)
        {
            parents.pop();
        }
        if indent == 0 {
            parents.clear();
            sections.push(Section {
                name: name.clone(),
                about: about.clone(),
                keys: Vec::new(),
            });
        }
        if value.is_empty() {
            parents.push((indent, name));
            continue;
        }
        let path: Vec<&str> = parents
            .iter()
            .map(|(_, name)| name.as_str())
            .chain([name.as_str()])
            .collect();
        sections.last_mut().unwrap().keys.push(Key {
            path: path.join("."),
            default: value,
            about,
        });
    }
    sections
}

/// The paths of all keys of the schema.
fn schema_keys() -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            // An empty map has keys of the operator's.
            Value::Object(members) if !members.is_empty() => {
                members.iter().for_each(|(name, below)| {
                    let separator = if path.is_empty() { "" } else { "." };
                    walk(below, &format!("{path}{separator}{name}"), found);
                })
            }
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                walk(&items[0], &format!("{path}[]"), found);
            }
            _ => {
                found.insert(path.to_owned());
            }
        }
    }
    let config = Config {
        upstreams: vec![Upstream::default()],
        ..Config::default()
    };
    let mut found = BTreeSet::new();
    walk(&serde_json::to_value(config).unwrap(), "", &mut found);
    found
}

#[test]
fn configuration_page_lists_exactly_the_keys_of_the_schema() {
    let sections = shipped_configuration();
    let documented: BTreeSet<String> = sections
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| key.path.clone()))
        .collect();
    assert_eq!(documented, schema_keys());
    let mut expected = String::new();
    for section in &sections {
        let _ = write!(expected, "\n## `{}`\n\n", section.name);
        let is_leaf = section.keys.iter().any(|key| key.path == section.name);
        if !is_leaf && !section.about.is_empty() {
            let _ = write!(expected, "{}\n\n", section.about.trim());
        }
        expected.push_str("| key | default | meaning |\n| --- | --- | --- |\n");
        for key in &section.keys {
            assert!(!key.about.is_empty(), "{} has no comment", key.path);
            let about = key.about.trim().replace('|', "\\|");
            let restart = match Applies::of(&key.path).unwrap() {
                Applies::Reload => "",
                Applies::Restart => " A change needs a restart.",
            };
            let (path, default) = (&key.path, &key.default);
            let _ = writeln!(expected, "| `{path}` | `{default}` | {about}{restart} |");
        }
    }
    assert_generated("configuration", &expected);
}

#[test]
fn api_page_lists_every_error_code_with_its_remedy() {
    let mut expected =
        String::from("\n| code | status | retry | remedy |\n| --- | --- | --- | --- |\n");
    for code in ErrorCode::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        let _ = writeln!(
            expected,
            "| `{code}` | {} | {retry} | {} |",
            code.status(),
            code.remedy()
        );
    }
    assert_generated("api", &expected);
}

#[tokio::test]
async fn api_page_names_every_path() {
    let world = start(|_| {});
    let page = fs::read_to_string(page_file("api")).unwrap();
    for (path, method) in described(&document(&world).await) {
        assert!(
            page.lines()
                .any(|line| line.contains(&path) && line.contains(&method)),
            "{method} {path} is not on the page"
        );
    }
}

#[tokio::test]
async fn metrics_page_names_exactly_the_exposed_families() {
    // The families of timeouts and of sharing are exposed from their first count on.
    let world = start(|config| {
        config.timeouts.first_token = Duration::from_millis(50);
        config.reuse.coalesce = true;
    });
    world
        .post("/v1/responses", &json!({"input": "[[ttft=24h]]"}))
        .answer()
        .await;
    let mut text = String::new();
    let is_counted = async || {
        text = world.get("/metrics").answer().await.text().to_owned();
        text.contains("tokenwire_upstream_timeouts_total{")
    };
    eventually("the timeout to be counted", is_counted).await;
    let exposed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let page = fs::read_to_string(page_file("metrics")).unwrap();
    let named: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(named, exposed);
}

#[tokio::test]
async fn every_reference_page_is_served_and_others_are_404() {
    let world = start(|_| {});
    let contents = world.get("/docs").answer().await.text().to_owned();
    for name in page_names() {
        let path = format!("/docs/{name}");
        let answer = world.get(&path).answer().await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("text/html; charset=utf-8")),
            "{path}"
        );
        assert!(
            contents.contains(&format!("href=\"{path}\"")),
            "/docs does not link to {path}"
        );
    }
    for path in ["/docs/unknown", "/docs/api.md", "/docs/..%2fapi"] {
        let answer = world.get(path).answer().await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

/// Every Markdown file that people read, without those of dependencies and caches.
fn markdown_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "node_modules" | ".git" | "shared") {
                markdown_files(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

#[test]
fn clients_page_names_the_pinned_versions_of_the_agents() {
    // What the tests themselves use beside the agents.
    const HELPERS: [&str; 2] = ["ws", "zod"];
    let page = fs::read_to_string(page_file("clients")).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents");
    let package = fs::read_to_string(folder.join("package.json")).unwrap();
    let package: Value = serde_json::from_str(&package).unwrap();
    let node = package["dependencies"].as_object().unwrap().iter();
    let node = node
        .filter(|(name, _)| !HELPERS.contains(&name.as_str()))
        .map(|(name, version)| (name.clone(), version.as_str().unwrap().to_owned()));
    let requirements = fs::read_to_string(folder.join("requirements.in")).unwrap();
    let python = requirements
        .lines()
        .filter_map(|line| line.split_once("=="))
        .map(|(name, version)| (name.to_owned(), version.to_owned()));
    for (name, version) in node.chain(python) {
        assert!(
            page.contains(&version),
            "docs/clients.md does not name {name} {version}"
        );
    }
}

#[test]
fn links_to_files_lead_to_files() {
    let mut files = Vec::new();
    for folder in ["crates", "examples", "deploy", "benches", ".github"] {
        markdown_files(&repository().join(folder), &mut files);
    }
    files.push(repository().join("README.md"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split([')', ' ']).next().unwrap();
            let target = link.split('#').next().unwrap();
            let is_elsewhere = target.is_empty()
                || target.starts_with('/')
                || target.contains("://")
                || target.starts_with("mailto:");
            assert!(
                is_elsewhere || file.parent().unwrap().join(target).exists(),
                "{}: {link} leads nowhere",
                file.display()
            );
        }
    }
}

/// Whether a span of code on the architecture page is a path from the crates' folder or from the
/// repository's.
fn is_path(span: &str) -> bool {
    let is_plain = span
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    is_plain && span.contains('/') && !span.starts_with('/') && !span.starts_with("text/")
}

#[test]
fn architecture_page_names_files_that_exist() {
    let crates = repository().join("crates");
    let text = fs::read_to_string(crates.join("README.md")).unwrap();
    let spans: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let paths: Vec<&&str> = spans.iter().filter(|span| is_path(span)).collect();
    assert!(paths.len() > 40, "found only {paths:?}");
    // Within the code map, files are named relative to the folder of their row.
    let layers = fs::read_dir(crates.join("core/src")).unwrap();
    let folders: Vec<PathBuf> = layers.map(|entry| entry.unwrap().path()).collect();
    for path in paths {
        let exists = [
            crates.join(path),
            repository().join(path),
            crates.join("core/src").join(path),
        ]
        .into_iter()
        .chain(folders.iter().map(|folder| folder.join(path)))
        .any(|path| path.exists());
        assert!(
            exists,
            "crates/README.md names {path}, which does not exist"
        );
    }
}

#[test]
fn configuration_examples_pass_the_check() {
    let mut files: Vec<PathBuf> = page_names().iter().map(|name| page_file(name)).collect();
    files.push(repository().join("deploy/README.md"));
    let folder = tempfile::TempDir::new().unwrap();
    let config = folder.path().join("example.yaml");
    let mut checked = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let example = block.split("```").next().unwrap();
            if example.starts_with("scrape_configs") {
                continue;
            }
            fs::write(&config, example.replace("sk-…", "sk-example")).unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_tokenwire"))
                .arg("--config")
                .arg(&config)
                .arg("--check")
                .env_clear()
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}:\n{example}\n{}",
                file.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            checked += 1;
        }
    }
    assert!(checked >= 4, "found only {checked} examples");
}

#[test]
fn readme_is_at_most_8_kib() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.len() <= 8 * 1024, "{} bytes", readme.len());
}
