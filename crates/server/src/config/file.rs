//! The configuration file: YAML, read into a neutral tree.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::problem::Problem;

/// The file that is read when none is named, if it is there.
pub const DEFAULT_PATH: &str = "config/tokenwire.yaml";

/// Reads YAML. An error never quotes the text, which may hold keys; it says where and what.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    // `on` and `yes` are words and a key given twice is a mistake: as YAML 1.2 has it.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| position_of(&error))
}

/// The tree of the file at `path`, `None` where there is no such file and it was not asked for by
/// name.
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
                    "Check the path; relative paths are taken from the folder in which the gateway is started."
                }
                ErrorKind::PermissionDenied => "Let the user who runs the gateway read it.",
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

/// Where the text is wrong, without quoting it.
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
