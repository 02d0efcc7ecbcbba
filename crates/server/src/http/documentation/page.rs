//! The description as a page.

use std::fmt::Write as _;

use tokenwire_core::model::error::ErrorCode;

use super::openapi::fault;
use super::operations::{Group, Kind, OPERATIONS, Operation, Parameter, Place};
use super::schemas::{COMMANDS, EVENTS, Message, REPLIES};

const HEAD: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Tokenwire: the API</title>
<link rel="icon" href="/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/docs/docs.css">
</head>
<body>
<a class="skip" href="#top">Skip to the content</a>
"##;

const INTRODUCTION: &str = r##"<main id="top">
<h1>The API</h1>
<p>Each answer of a model is one log of events, numbered from 0 without gaps and closed by exactly one last event. It can be read over SSE or a
WebSocket, by as many readers as like, from any number on, and on either transport after having begun on the other. Who comes back after a cut says the last
number it has.</p>
<p>The vocabulary is OpenAI's, so its SDKs work unmodified with <code>base_url</code> set to <code>http://localhost:3000/v1</code>. What is
Tokenwire's own begins with <code>tokenwire:</code>. For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the chat page</a>.</p>
"##;

const ERRORS: &str = r##"<section aria-labelledby="errors">
<h2 id="errors">Errors</h2>
<p>Before the head an error is a status and <code>{"error":{"message","type","param","code"}}</code>; after it, an event, and in a chat stream an error object
without <code>[DONE]</code>. 429 and 503 carry <code>Retry-After</code>; <code>x-should-retry</code> tells the SDKs whether to ask again. An upstream's own refusals pass through with
their status and body. These codes are the gateway's; none is ever renamed.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Error codes">
<table><thead><tr><th scope="col">Code</th><th scope="col">Status</th><th scope="col">Whose doing</th><th scope="col">May a retry help?</th><th scope="col">What to do</th></tr></thead><tbody>
"##;

/// The whole page.
pub(super) fn render() -> String {
    let mut out = String::with_capacity(64 * 1024);
    out.push_str(HEAD);
    contents(&mut out);
    out.push_str(INTRODUCTION);
    for group in Group::ALL {
        let id = anchor(group.name());
        let _ = write!(
            out,
            "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{}</h2>\n<p>{}</p>\n",
            group.name(),
            prose(group.about())
        );
        OPERATIONS
            .iter()
            .filter(|operation| operation.group == *group)
            .for_each(|operation| describe(operation, &mut out));
        out.push_str("</section>\n");
    }
    messages(
        "Events",
        "Every event has a <code>type</code> and a <code>sequence_number</code>. Apply it if the number is greater than the last one applied.",
        EVENTS,
        &mut out,
    );
    messages(
        "WebSocket messages",
        "What a client sends, each as one text frame of JSON.",
        COMMANDS,
        &mut out,
    );
    messages(
        "WebSocket replies",
        "What comes beside the events, which carry their lane's <code>stream_id</code>.",
        REPLIES,
        &mut out,
    );
    out.push_str(ERRORS);
    for code in ErrorCode::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        let _ = writeln!(
            out,
            "<tr id=\"{code}\"><th scope=\"row\"><code>{code}</code></th><td>{}</td><td>{}</td><td>{retry}</td><td>{}</td></tr>",
            code.status(),
            fault(code.fault()),
            prose(code.remedy()),
        );
    }
    let _ = write!(
        out,
        "</tbody></table></div>\n</section>\n<p class=\"version\">Tokenwire {}</p>\n</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    out
}

fn contents(out: &mut String) {
    out.push_str(
        "<nav aria-label=\"Contents\"><p class=\"name\"><a href=\"/\">Tokenwire</a></p>\n<ul>\n",
    );
    for group in Group::ALL {
        let _ = writeln!(
            out,
            "<li><a href=\"#{}\">{}</a><ul>",
            anchor(group.name()),
            group.name()
        );
        for operation in OPERATIONS
            .iter()
            .filter(|operation| operation.group == *group)
        {
            let Operation {
                id, method, path, ..
            } = operation;
            let _ = writeln!(
                out,
                "<li><a href=\"#{id}\"><span class=\"method {}\">{method}</span> {}</a></li>",
                method.to_ascii_lowercase(),
                escape(path)
            );
        }
        out.push_str("</ul></li>\n");
    }
    for title in [
        "Events",
        "WebSocket messages",
        "WebSocket replies",
        "Errors",
    ] {
        let _ = writeln!(out, "<li><a href=\"#{}\">{title}</a></li>", anchor(title));
    }
    out.push_str("</ul></nav>\n");
}

fn describe(operation: &Operation, out: &mut String) {
    let Operation {
        id,
        method,
        path,
        summary,
        about,
        parameters,
        body,
        answers,
        errors,
        example,
        ..
    } = operation;
    let _ = write!(
        out,
        "<article aria-labelledby=\"{id}\">\n<h3 id=\"{id}\"><span class=\"method {}\">{method}</span> <code>{}</code></h3>\n\
         <p><strong>{}.</strong> {}</p>\n",
        method.to_ascii_lowercase(),
        escape(path),
        prose(summary),
        prose(about),
    );
    if !parameters.is_empty() || body.is_some() {
        out.push_str("<h4>Takes</h4>\n<dl>\n");
        parameters.iter().for_each(|parameter| take(parameter, out));
        if let Some(schema) = body {
            let _ = writeln!(
                out,
                "<dt>body <small>JSON</small></dt><dd>{}</dd>",
                body_text(schema)
            );
        }
        out.push_str("</dl>\n");
    }
    out.push_str("<h4>Answers</h4>\n<dl>\n");
    for answer in *answers {
        let media: Vec<&str> = answer.content.iter().map(|(media, _)| *media).collect();
        let _ = writeln!(
            out,
            "<dt>{} <small>{}</small></dt><dd>{}</dd>",
            answer.status,
            media.join(", "),
            prose(answer.about)
        );
    }
    out.push_str("</dl>\n");
    if !errors.is_empty() {
        let links: Vec<String> = errors
            .iter()
            .map(|code| format!("<a href=\"#{code}\"><code>{code}</code></a>"))
            .collect();
        let _ = writeln!(out, "<p class=\"errors\">Errors: {}</p>", links.join(" "));
    }
    let _ = write!(
        out,
        "<pre tabindex=\"0\"><code>{}</code></pre>\n</article>\n",
        escape(example)
    );
}

fn take(parameter: &Parameter, out: &mut String) {
    let place = match parameter.place {
        Place::Path => "path",
        Place::Query => "query",
        Place::RequiredQuery => "query, required",
        Place::Header => "header",
    };
    let values = match parameter.kind {
        Kind::OneOf(values) => {
            let values: Vec<String> = values
                .iter()
                .map(|value| format!("<code>{value}</code>"))
                .collect();
            format!(" {}; the first is the default.", values.join(", "))
        }
        Kind::Switch => " <code>true</code> or <code>false</code>.".to_owned(),
        Kind::Text | Kind::Number => String::new(),
    };
    let _ = writeln!(
        out,
        "<dt><code>{}</code> <small>{place}</small></dt><dd>{}{values}</dd>",
        parameter.name,
        prose(parameter.about)
    );
}

fn body_text(schema: &str) -> String {
    prose(match schema {
        "StreamRequest" => "A responses request (`input`) or a chat request (`messages`).",
        "ChatRequest" => "A chat request: `messages`, and whatever else the upstream takes.",
        _ => "A responses request: `input`, and what else OpenAI's API takes.",
    })
}

fn messages(title: &str, about: &str, messages: &[Message], out: &mut String) {
    let id = anchor(title);
    let _ = write!(
        out,
        "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n<p>{about}</p>\n<dl>\n"
    );
    for message in messages {
        let _ = writeln!(
            out,
            "<dt><code>{}</code></dt><dd>{}</dd>",
            message.kind,
            prose(message.about)
        );
    }
    out.push_str("</dl>\n</section>\n");
}

/// A heading's place on the page.
fn anchor(title: &str) -> String {
    title.to_ascii_lowercase().replace(' ', "-")
}

/// Text with `code` in it.
fn prose(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    pieces
        .map(|(at, piece)| {
            if at % 2 == 1 {
                format!("<code>{}</code>", escape(piece))
            } else {
                escape(piece)
            }
        })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_and_every_error_with_its_remedy_is_on_the_page() {
        let page = render();
        for operation in OPERATIONS {
            assert!(
                page.contains(&format!("<h3 id=\"{}\">", operation.id)),
                "{}",
                operation.id
            );
            assert!(
                page.contains(&escape(operation.example)),
                "{}",
                operation.id
            );
        }
        for code in ErrorCode::ALL {
            assert!(page.contains(&format!("<tr id=\"{code}\">")), "{code}");
            assert!(
                page.contains(&format!("<td>{}</td></tr>", prose(code.remedy()))),
                "{code}"
            );
        }
    }

    #[test]
    fn links_within_the_page_lead_somewhere() {
        let page = render();
        for link in page.split("href=\"#").skip(1) {
            let id = link.split('"').next().unwrap();
            assert_eq!(page.matches(&format!(" id=\"{id}\"")).count(), 1, "#{id}");
        }
    }

    #[test]
    fn nothing_is_inline_and_nothing_is_fetched_from_elsewhere() {
        let page = render();
        for part in [
            "<script",
            "<style",
            " style=",
            " onclick=",
            "src=",
            "href=\"http",
        ] {
            assert!(!page.contains(part), "{part}");
        }
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(
            prose("a `<b>` & \"c\""),
            "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;"
        );
    }
}
