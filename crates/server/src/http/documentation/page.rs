//! The API page at `/docs`, made from the description.

use std::fmt::Write as _;

use tokenwire_core::model::error::ErrorCode;

use super::layout::{anchor, escape, push_contents, push_foot, push_head};
use super::openapi::fault;
use super::operations::{Group, Kind, OPERATIONS, Operation, Parameter, Place};
use super::schemas::{COMMANDS, EVENTS, Message, REPLIES};

const INTRODUCTION: &str = r##"<main id="top">
<h1>The API</h1>
<p>Each answer of a model is one log of events. Events are numbered from 0 without gaps and end with exactly one terminal event. Any number of
readers can read it over SSE or a WebSocket, from any number on. A reader that lost its connection resumes with the last number that it has,
on either transport.</p>
<p>The vocabulary is OpenAI's: the SDKs work unmodified with <code>base_url</code> set to <code>http://localhost:3000/v1</code>. Types that
Tokenwire adds begin with <code>tokenwire:</code>.</p>
<p>For programs: <a href="/openapi.json">openapi.json</a>. To try it: <a href="/">the chat page</a>. Rules that hold for several paths are on
the pages <a href="/docs/api">API in tables</a>, <a href="/docs/parameters">Parameters</a> and <a href="/docs/clients">Clients</a>.</p>
"##;

const ERRORS: &str = r##"<section aria-labelledby="errors">
<h2 id="errors">Errors</h2>
<p>Before the response head, an error is a status with <code>{"error":{"message","type","param","code"}}</code>. After it, an error is an event; in a
chat stream it is an error object without <code>[DONE]</code>. 429 and 503 carry <code>Retry-After</code>. <code>x-should-retry</code> tells the SDKs
whether to repeat the request. An upstream's own refusals pass through with status and body. The codes below are the gateway's; none is ever
renamed.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Error codes">
<table><thead><tr><th scope="col">Code</th><th scope="col">Status</th><th scope="col">At fault</th><th scope="col">Retry?</th><th scope="col">What to do</th></tr></thead><tbody>
"##;

/// Returns the whole page.
pub(super) fn render() -> String {
    let mut out = String::with_capacity(64 * 1024);
    push_head("the API", &mut out);
    push_contents("/docs", &sections(), &mut out);
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
        "What a client sends, each as one JSON text frame.",
        COMMANDS,
        &mut out,
    );
    messages(
        "WebSocket replies",
        "What the gateway sends beside events. Events carry the <code>stream_id</code> of their lane.",
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
    out.push_str("</tbody></table></div>\n</section>\n");
    push_foot(&mut out);
    out
}

/// Returns the groups, their operations and the lists after them as list items.
fn sections() -> String {
    let mut out = String::new();
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
    out
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
        "ChatRequest" => {
            "A chat request: `messages`, and any other member that the upstream accepts."
        }
        _ => "A responses request: `input`, and any other member of OpenAI's API.",
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

/// Returns text as HTML, with the spans between backticks as code.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_lists_every_operation_and_every_error_with_remedy() {
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
    fn links_within_the_page_resolve() {
        let page = render();
        for link in page.split("href=\"#").skip(1) {
            let id = link.split('"').next().unwrap();
            assert_eq!(page.matches(&format!(" id=\"{id}\"")).count(), 1, "#{id}");
        }
    }

    #[test]
    fn page_has_no_scripts_styles_or_external_resources() {
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
    fn prose_escapes_html() {
        assert_eq!(
            prose("a `<b>` & \"c\""),
            "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;"
        );
    }
}
