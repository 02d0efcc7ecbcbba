//! A reference page as HTML.
//!
//! Raw HTML in the source is dropped. Links to other reference pages (`api.md#errors`) become
//! `/docs/api#errors`. Links to other files of the repository are shown without the link, since the
//! gateway does not serve them.

use std::fmt::Write as _;

use pulldown_cmark::{Alignment, CowStr, Event, Options, Parser, Tag, TagEnd, html};

use super::layout::{anchor, escape, push_contents, push_foot, push_head};
use super::pages::{PAGES, Page};

/// Returns the whole page.
pub(super) fn render(page: &Page) -> String {
    let events: Vec<Event<'_>> = Parser::new_ext(page.source, Options::ENABLE_TABLES).collect();
    let mut out = String::with_capacity(page.source.len() * 2);
    push_head(page.title(), &mut out);
    push_contents(
        &format!("/docs/{}", page.name),
        &sections(&events),
        &mut out,
    );
    out.push_str("<main id=\"top\">\n");
    html::push_html(&mut out, adapted(events).into_iter());
    push_foot(&mut out);
    out
}

/// Returns the second-level headings as list items.
fn sections(events: &[Event<'_>]) -> String {
    let mut out = String::new();
    for (at, event) in events.iter().enumerate() {
        let Event::Start(Tag::Heading { level, .. }) = event else {
            continue;
        };
        if *level as usize == 2 {
            let title = heading_text(&events[at + 1..]);
            let _ = writeln!(
                out,
                "<li><a href=\"#{}\">{}</a></li>",
                anchor(&title),
                escape(&title)
            );
        }
    }
    out
}

/// Returns the text of the heading that `events` continues.
fn heading_text(events: &[Event<'_>]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Text(piece) | Event::Code(piece) => text.push_str(piece),
            Event::End(TagEnd::Heading(_)) => break,
            _ => {}
        }
    }
    text
}

/// Gives headings an anchor, maps links, wraps tables, and drops raw HTML and inline styles.
fn adapted(mut events: Vec<Event<'_>>) -> Vec<Event<'_>> {
    let mut adapted = Vec::with_capacity(events.len());
    let mut links = Vec::new();
    for at in 0..events.len() {
        let title = match &events[at] {
            Event::Start(Tag::Heading { .. }) => heading_text(&events[at + 1..]),
            _ => String::new(),
        };
        let event = std::mem::replace(&mut events[at], Event::Rule);
        match event {
            Event::Html(_) | Event::InlineHtml(_) => {}
            Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => {}
            Event::Start(Tag::Heading {
                level,
                classes,
                attrs,
                ..
            }) => adapted.push(Event::Start(Tag::Heading {
                level,
                id: Some(anchor(&title).into()),
                classes,
                attrs,
            })),
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let target = target(&dest_url);
                links.push(target.is_some());
                if let Some(target) = target {
                    adapted.push(Event::Start(Tag::Link {
                        link_type,
                        dest_url: target.into(),
                        title,
                        id,
                    }));
                }
            }
            Event::End(TagEnd::Link) if links.pop() == Some(false) => {}
            Event::Start(Tag::Table(columns)) => {
                // A column's alignment would be an inline style, which the policy forbids.
                adapted.push(raw("<div class=\"scroll\" tabindex=\"0\">"));
                adapted.push(Event::Start(Tag::Table(vec![
                    Alignment::None;
                    columns.len()
                ])));
            }
            Event::End(TagEnd::Table) => {
                adapted.push(Event::End(TagEnd::Table));
                adapted.push(raw("</div>\n"));
            }
            Event::Start(Tag::CodeBlock(_)) => adapted.push(raw("<pre tabindex=\"0\"><code>")),
            Event::End(TagEnd::CodeBlock) => adapted.push(raw("</code></pre>\n")),
            event => adapted.push(event),
        }
    }
    adapted
}

fn raw(html: &'static str) -> Event<'static> {
    Event::Html(CowStr::Borrowed(html))
}

/// Returns where a link leads on the gateway; `None` for files that it does not serve.
fn target(link: &str) -> Option<String> {
    let (file, fragment) = link
        .split_once('#')
        .map_or((link, String::new()), |(file, fragment)| {
            (file, format!("#{fragment}"))
        });
    if file.is_empty() || file.starts_with('/') || file.starts_with("https://") {
        return Some(link.to_owned());
    }
    let name = file.strip_suffix(".md")?;
    PAGES
        .iter()
        .any(|page| page.name == name)
        .then(|| format!("/docs/{name}{fragment}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(source: &'static str) -> String {
        let html = render(&Page {
            name: "test",
            source,
        });
        let (_, body) = html.split_once("<main id=\"top\">\n").unwrap();
        body.split_once("<p class=\"version\">")
            .unwrap()
            .0
            .to_owned()
    }

    #[test]
    fn raw_html_is_dropped_and_text_is_escaped() {
        assert_eq!(
            body("a <b onclick=\"x\">c</b> `<i>`\n\n<script>x</script>\n"),
            "<p>a c <code>&lt;i&gt;</code></p>\n"
        );
    }

    #[test]
    fn links_lead_to_pages_and_other_files_are_text() {
        assert_eq!(
            body(
                "[a](api.md#errors) [b](../../../deploy/nginx.conf) [c](#x) [d](https://example.com)"
            ),
            "<p><a href=\"/docs/api#errors\">a</a> b <a href=\"#x\">c</a> <a href=\"https://example.com\">d</a></p>\n"
        );
    }

    #[test]
    fn headings_have_anchors_and_tables_scroll() {
        assert_eq!(
            body("## The `x` key\n\n| a |\n| --: |\n| b |\n"),
            "<h2 id=\"the-x-key\">The <code>x</code> key</h2>\n<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th>a</th></tr></thead><tbody>\n<tr><td>b</td></tr>\n</tbody></table>\n</div>\n"
        );
    }

    #[test]
    fn every_link_between_pages_leads_to_a_heading() {
        let rendered: Vec<(String, String)> = PAGES
            .iter()
            .map(|page| (format!("/docs/{}", page.name), render(page)))
            .collect();
        for (path, html) in &rendered {
            for link in html.split("href=\"").skip(1) {
                let link = link.split('"').next().unwrap();
                let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
                let page = match file {
                    "" => Some(html),
                    file => rendered
                        .iter()
                        .find(|(path, _)| path == file)
                        .map(|(_, html)| html),
                };
                match page {
                    Some(page) if !fragment.is_empty() => assert!(
                        page.contains(&format!(" id=\"{fragment}\"")),
                        "{path}: {link} leads to no heading"
                    ),
                    Some(_) => {}
                    None => assert!(
                        file.starts_with("https://")
                            || [
                                "/",
                                "/activity",
                                "/docs",
                                "/docs/docs.css",
                                "/page/icon.svg",
                                "/openapi.json",
                                "/metrics",
                                "/tokenwire.js"
                            ]
                            .contains(&file),
                        "{path}: {link} is not served"
                    ),
                }
            }
        }
    }

    #[test]
    fn pages_have_no_scripts_and_no_inline_styles() {
        for page in PAGES {
            let html = render(page);
            for part in ["<script", "<style", " style=", "src=", "onclick="] {
                assert!(!html.contains(part), "{}: {part}", page.name);
            }
        }
    }
}
