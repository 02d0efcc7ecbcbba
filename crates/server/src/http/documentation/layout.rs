//! What all documentation pages share: the head, the contents beside the text, and escaping.

use std::fmt::Write as _;

use super::pages::PAGES;

/// Appends everything before the contents.
pub(super) fn push_head(title: &str, out: &mut String) {
    let title = escape(title);
    let _ = write!(
        out,
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Tokenwire: {title}</title>
<link rel="icon" href="/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/docs/docs.css">
</head>
<body>
<a class="skip" href="#top">Skip to the content</a>
"##
    );
}

/// Appends the contents: the list of all pages, and `sections`, which is a list of the sections of
/// this page as HTML.
pub(super) fn push_contents(current: &str, sections: &str, out: &mut String) {
    out.push_str(
        "<nav aria-label=\"Contents\"><p class=\"name\"><a href=\"/\">Tokenwire</a></p>\n<ul class=\"pages\">\n",
    );
    let api = ("/docs".to_owned(), "API reference");
    let pages = PAGES
        .iter()
        .map(|page| (format!("/docs/{}", page.name), page.title()));
    for (path, title) in std::iter::once(api).chain(pages) {
        let mark = if path == current {
            " aria-current=\"page\""
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "<li><a href=\"{path}\"{mark}>{}</a></li>",
            escape(title)
        );
    }
    let _ = write!(out, "</ul>\n<ul>\n{sections}</ul></nav>\n");
}

/// Appends everything after the text.
pub(super) fn push_foot(out: &mut String) {
    let _ = write!(
        out,
        "<p class=\"version\">Tokenwire {}</p>\n</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
}

/// Returns the anchor of a heading: lower case, words joined by `-`, as GitHub makes it.
pub(super) fn anchor(title: &str) -> String {
    title
        .chars()
        .filter_map(|c| match c {
            ' ' | '-' => Some('-'),
            '_' => Some('_'),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

/// Escapes text for HTML content and attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
