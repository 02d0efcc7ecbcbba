//! Writes the effective configuration as YAML, without its secrets and with origins.

use super::load::Loaded;

// === impl Loaded ===

impl Loaded {
    /// Returns the configuration as YAML that can be read back, with secrets as `<redacted>`. A comment
    /// names the origin of each value that was set.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let yaml = serde_saphyr::to_string(&self.config).unwrap_or_default();
        let mut sections: Vec<(usize, &str)> = Vec::new();
        let mut lines = Vec::new();
        for line in yaml.lines() {
            let indent = line.len() - line.trim_start().len();
            let key = line.trim_start().split_once(':').map_or("", |(key, _)| key);
            sections.retain(|(column, _)| *column < indent);
            sections.push((indent, key));
            let path = sections
                .iter()
                .map(|(_, key)| *key)
                .collect::<Vec<_>>()
                .join(".");
            lines.push(match self.sources.get(&path) {
                Some(source) => format!("{line}  # {source}"),
                None if path == "upstreams" && self.config.uses_simulator() => {
                    format!("{line}  # the embedded simulator answers")
                }
                None => line.to_owned(),
            });
        }
        lines.join("\n") + "\n"
    }
}
