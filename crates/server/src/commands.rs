//! The commands that need no server: `--check` and `--print-config`.

use crate::banner::describe_upstreams;
use crate::cli::Cli;
use crate::config::Loaded;

/// Returns the text to print instead of serving, if a flag asks for one.
#[must_use]
pub fn output(cli: &Cli, loaded: &Loaded) -> Option<String> {
    if cli.print_config {
        Some(loaded.to_yaml())
    } else if cli.check {
        Some(summary(loaded))
    } else {
        None
    }
}

fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let file = loaded.file.as_ref().map_or_else(
        || "no file, defaults apply".to_owned(),
        |file| file.display().to_string(),
    );
    let model = config
        .default_model()
        .unwrap_or("none: every request must name its model");
    format!(
        "The configuration can be used.\n  file           {file}\n  listens on     {} port {}\n  upstream       {}\n  default model  {model}\n",
        config.server.host,
        config.server.port,
        describe_upstreams(config),
    )
}
