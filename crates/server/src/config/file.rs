//! The configuration file: YAML that is read into a neutral tree.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::problem::Problem;

/// File that is read by default, if it exists.
pub const DEFAULT_PATH: &str = "config/tokenwire.yaml";

/// Parses YAML. An error names the position and never quotes the text, which may hold keys.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    // As in YAML 1.2, `on` and `yes` are strings, and a repeated key is an error.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| position_of(&error))
}

/// Returns the tree of the file at `path`, or `None` if an unnamed file does not exist.
pub(crate) fn read(path: &Path, named: bool) -> Result<Option<Value>, Problem> {
    let problem = |found: String, expected: &str, remedy: &str| Problem {
        origin: path.display().to_string(),
        key: String::new(),
        found,
        expected: expected.to_owned(),
        remedy: remedy.to_owned(),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !named => return Ok(None),
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::NotFound => {
                    "Check the path; relative paths start at the folder in which the gateway is started."
                }
                ErrorKind::PermissionDenied => {
                    "Give the user of the gateway permission to read it."
                }
                _ => "",
            };
            return Err(problem(
                format!("cannot be read ({error})"),
                "a readable YAML file in UTF-8",
                remedy,
            ));
        }
    };
    match parse(&text) {
        Ok(Value::Null) => Ok(Some(Value::Object(serde_json::Map::new()))),
        Ok(tree @ Value::Object(_)) => Ok(Some(tree)),
        Ok(_) => Err(problem(
            "holds no keys at its top level".to_owned(),
            "a YAML map of sections, such as `server:`",
            "",
        )),
        Err(place) => Err(problem(
            format!("is not valid YAML ({place})"),
            "a YAML file",
            "Indent with spaces and quote text that holds `: ` or ` #`.",
        )),
    }
}

/// Returns the position of the error, without the text.
fn position_of(error: &serde_saphyr::Error) -> String {
    let place = error.location().map_or_else(String::new, |at| {
        format!("line {}, column {}", at.line(), at.column())
    });
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{place}: the key `{key}` for the second time")
        }
        _ => place,
    }
}
