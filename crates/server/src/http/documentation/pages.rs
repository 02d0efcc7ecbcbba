//! The reference pages, as Markdown.

/// One reference page.
#[derive(Debug)]
pub(super) struct Page {
    /// The last part of its path: `/docs/<name>`.
    pub(super) name: &'static str,
    /// Its Markdown source. The first line is the title.
    pub(super) source: &'static str,
}

macro_rules! pages {
    ($($name:literal),* $(,)?) => {
        &[$(Page { name: $name, source: include_str!(concat!("../../../docs/", $name, ".md")) },)*]
    };
}

/// Every reference page, in the order of the contents.
pub(super) const PAGES: &[Page] = pages![
    "api",
    "parameters",
    "clients",
    "network",
    "credentials",
    "limits",
    "upstreams",
    "sharing",
    "webhooks",
    "activity",
    "metrics",
    "telemetry",
    "configuration",
];

// === impl Page ===

impl Page {
    /// Returns the title, which is the first heading.
    pub(super) fn title(&self) -> &'static str {
        let first = self.source.lines().next().unwrap_or_default();
        first.trim_start_matches(['#', ' '])
    }
}
