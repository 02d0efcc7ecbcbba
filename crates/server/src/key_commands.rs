//! `tokenwire key`: makes, lists and revokes keys.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::auth::{KeysFile, to_yaml};
use crate::config::Config;
use crate::config::auth::{KeyEntry, Role, parse_time};
use crate::config::client_limits::ClientLimits;
use crate::key_args::{KeyCommand, NewKey, RoleName};
use crate::key_hash::{KeyHash, new_key};

/// What a command prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// For standard output: what programs read.
    pub out: String,
    /// For standard error: what people read.
    pub err: String,
}

/// Runs a command.
///
/// # Errors
/// Why it cannot be done, with a remedy.
pub fn run(command: &KeyCommand, config: &Config) -> Result<Printed, String> {
    match command {
        KeyCommand::New(new) => make(new, config),
        KeyCommand::List { keys_file } => list(file(keys_file.as_ref(), config).as_ref(), config),
        KeyCommand::Revoke {
            key,
            owner,
            keys_file,
        } => {
            let file = file(keys_file.as_ref(), config);
            let file = file.ok_or("no file of keys: set auth.keys_file, or use --keys-file")?;
            revoke(&file, key.as_deref(), owner.as_deref())
        }
    }
}

fn file(named: Option<&PathBuf>, config: &Config) -> Option<KeysFile> {
    let configured = config.auth.keys_file.as_ref().map(PathBuf::from);
    named.cloned().or(configured).map(KeysFile::at)
}

fn make(new: &NewKey, config: &Config) -> Result<Printed, String> {
    let key = new_key();
    let hash = KeyHash::of(&key);
    let entry = KeyEntry {
        owner: new.owner.clone(),
        key: None,
        hash: Some(hash.to_string()),
        role: match new.role {
            RoleName::User => Role::User,
            RoleName::Operator => Role::Operator,
        },
        models: new.models.clone(),
        upstreams: new.upstreams.clone(),
        limits: ClientLimits::default(),
        expires: new.expires.as_deref().map(expiry).transpose()?,
    };
    if let Some(problem) = entry.problems().first() {
        return Err(format!(
            "--{} {}; expected {}",
            problem.field, problem.found, problem.expected
        ));
    }
    let unknown = |name: &&String| !config.upstreams.iter().any(|known| known.name == **name);
    if let Some(name) = new.upstreams.iter().find(unknown) {
        return Err(format!(
            "--upstreams names {name:?}, which is not configured"
        ));
    }
    let id = hash.id();
    let err = match file(new.keys_file.as_ref(), config) {
        Some(file) => {
            let add = |keys: &mut Vec<KeyEntry>| {
                keys.push(entry);
                Ok(())
            };
            file.change(add).map_err(|error| error.to_string())?;
            let path = file.path().display();
            format!(
                "The key {id} of '{}' is in {path}. It is shown only now:\n",
                new.owner
            )
        }
        None => format!(
            "There is no auth.keys_file. Add this to the configuration:\n\nauth:\n  keys:\n{}\n\
             The key {id} of '{}' is shown only now:\n",
            to_yaml(&entry)
                .replace("  ", "    ")
                .replace("        ", "      "),
            new.owner
        ),
    };
    Ok(Printed {
        out: format!("{key}\n"),
        err,
    })
}

/// Returns a time as the file has it: a duration counts from now.
fn expiry(text: &str) -> Result<String, String> {
    if parse_time(text).is_some() {
        return Ok(text.to_owned());
    }
    let expected = "--expires: expected 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z";
    let wait = humantime::parse_duration(text).map_err(|_| expected.to_owned())?;
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    if wait > LONGEST {
        return Err(
            "--expires: at most 100 years; leave it out for a key without an end".to_owned(),
        );
    }
    Ok(humantime::format_rfc3339_seconds(SystemTime::now() + wait).to_string())
}

fn list(file: Option<&KeysFile>, config: &Config) -> Result<Printed, String> {
    let in_file = match file {
        Some(file) => file.read().map_err(|error| error.to_string())?,
        None => Vec::new(),
    };
    let mut rows = vec![
        [
            "ID",
            "OWNER",
            "ROLE",
            "MODELS",
            "UPSTREAMS",
            "EXPIRES",
            "IN",
        ]
        .map(str::to_owned),
    ];
    let all = |list: &[String]| match list {
        [] => "all".to_owned(),
        names => names.join(","),
    };
    let now = SystemTime::now();
    let mut add = |entry: &KeyEntry, place: &str| {
        let expired = entry.expiry().is_some_and(|expires| expires <= now);
        let expires = entry.expires.as_deref().unwrap_or("never");
        rows.push([
            entry.key_hash().map(|hash| hash.id()).unwrap_or_default(),
            entry.owner.clone(),
            match entry.role {
                Role::User => "user".to_owned(),
                Role::Operator => "operator".to_owned(),
            },
            all(&entry.models),
            all(&entry.upstreams),
            format!("{expires}{}", if expired { " (expired)" } else { "" }),
            place.to_owned(),
        ]);
    };
    config
        .auth
        .keys
        .iter()
        .for_each(|entry| add(entry, "configuration"));
    in_file.iter().for_each(|entry| add(entry, "file"));
    let widths: Vec<usize> = (0..7)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    Ok(Printed {
        out,
        err: String::new(),
    })
}

fn revoke(file: &KeysFile, key: Option<&str>, owner: Option<&str>) -> Result<Printed, String> {
    let id = key.map(|key| match key.strip_prefix("sk-") {
        Some(_) => KeyHash::of(key).id(),
        None => key.to_owned(),
    });
    let is_meant = |entry: &KeyEntry| {
        let by_id = id.is_some() && entry.key_hash().map(|hash| hash.id()) == id;
        by_id || owner.is_some_and(|owner| entry.owner == owner)
    };
    let revoked = file.change(|keys| {
        let before = keys.len();
        keys.retain(|entry| !is_meant(entry));
        match before - keys.len() {
            0 => Err("it has no such key; `tokenwire key list` shows them".to_owned()),
            revoked => Ok(revoked),
        }
    });
    let revoked = revoked.map_err(|error| error.to_string())?;
    Ok(Printed {
        out: String::new(),
        err: format!(
            "Revoked: {revoked}. Running gateways close their connections within a second.\n"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn run_line(line: &[&str], config: &Config) -> Result<Printed, String> {
        let cli = Cli::try_parse_from(["tokenwire", "key"].iter().chain(line)).unwrap();
        let Some(Command::Key(command)) = cli.command else {
            panic!("no command");
        };
        run(&command, config)
    }

    fn with_file(folder: &std::path::Path) -> Config {
        let mut config = Config::default();
        config.auth.keys_file = Some(folder.join("keys.yaml").display().to_string());
        config
    }

    #[test]
    fn key_is_made_listed_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let config = with_file(folder.path());
        let made = run_line(
            &["new", "--owner", "alice", "--models", "gpt-*,o3"],
            &config,
        )
        .unwrap();
        let key = made.out.trim().to_owned();
        assert!(key.starts_with("sk-tw-"), "{key}");
        assert!(!made.err.contains(&key), "{}", made.err);
        run_line(
            &["new", "--owner", "bob", "--expires", "2020-01-01"],
            &config,
        )
        .unwrap();
        let listed = run_line(&["list"], &config).unwrap().out;
        let id = KeyHash::of(&key).id();
        let row = listed.lines().find(|line| line.starts_with(&id)).unwrap();
        assert!(row.contains("alice") && row.contains("gpt-*,o3"), "{row}");
        assert!(listed.contains("2020-01-01 (expired)"), "{listed}");
        assert!(
            !listed.contains(&key) && !listed.contains(&key[6..20]),
            "{listed}"
        );
        run_line(&["revoke", &id], &config).unwrap();
        assert!(run_line(&["revoke", &key], &config).is_err());
        run_line(&["revoke", "--owner", "bob"], &config).unwrap();
        assert_eq!(run_line(&["list"], &config).unwrap().out.lines().count(), 1);
    }

    #[test]
    fn key_without_a_file_is_printed_with_its_entry() {
        let line = [
            "new",
            "--owner",
            "a",
            "--role",
            "operator",
            "--expires",
            "30d",
        ];
        let made = run_line(&line, &Config::default()).unwrap();
        let yaml = made.err.split("auth:").nth(1).unwrap();
        let yaml = format!("auth:{}", yaml.split("\n\n").next().unwrap());
        let tree = crate::config::parse_yaml(&yaml).unwrap();
        let auth: crate::config::auth::Auth = serde_json::from_value(tree["auth"].clone()).unwrap();
        assert_eq!(auth.keys[0].key_hash(), Some(KeyHash::of(made.out.trim())));
        assert_eq!(auth.keys[0].role, Role::Operator);
        assert!(auth.keys[0].expiry().unwrap() > SystemTime::now());
    }

    #[test]
    fn mistakes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = with_file(folder.path());
        for line in [
            &["new", "--owner", "a b"][..],
            &["new", "--owner", "a", "--expires", "soon"],
            &["new", "--owner", "a", "--upstreams", "nowhere"],
            &["revoke", "000000000000"],
        ] {
            assert!(run_line(line, &config).is_err(), "{line:?}");
        }
    }
}
