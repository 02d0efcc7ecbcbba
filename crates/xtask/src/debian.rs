//! What Debian packages bring.

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// A Debian package and how to see that it is not needed any more. A program that came from
/// elsewhere serves as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) found_by: Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A program on the PATH.
    Program(&'static str),
    /// A module that `python3` can import.
    PythonModule(&'static str),
    /// A file.
    File(&'static str),
}

// === impl Package ===

impl Package {
    fn is_there(&self, workspace: &Workspace) -> bool {
        match self.found_by {
            Probe::Program(program) => process::which(program).is_some(),
            Probe::PythonModule(module) => process::succeeds(
                process::command("python3", workspace.root())
                    .args(["-c", &format!("import {module}")]),
            ),
            Probe::File(path) => std::path::Path::new(path).exists(),
        }
    }
}

/// Installs, in one go, those of the packages that are not there.
///
/// # Errors
/// Something is missing and must not or cannot be installed; the error names all of it.
pub(crate) fn ensure(
    workspace: &Workspace,
    packages: &[Package],
    may_install: bool,
) -> Result<(), Error> {
    let mut missing: Vec<&str> = packages
        .iter()
        .filter(|package| !package.is_there(workspace))
        .map(|package| package.name)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !may_install {
        return Err(Error::Missing {
            what: list.clone(),
            remedy: format!("leave out --no-install, or: sudo apt-get install {list}"),
        });
    }
    if process::which("apt-get").is_none() {
        return Err(Error::Missing {
            what: list,
            remedy: "this is no Debian; install what gives the same programs".to_owned(),
        });
    }
    let is_root = process::output(process::command("id", workspace.root()).arg("-u"))
        .is_some_and(|id| id.trim() == "0");
    if !is_root && process::which("sudo").is_none() {
        return Err(Error::Missing {
            what: list.clone(),
            remedy: format!("as root, apt-get install {list}; there is no sudo here"),
        });
    }
    let apt_get = |arguments: &[&str]| {
        let mut command = if is_root {
            process::command("apt-get", workspace.root())
        } else {
            let mut command = process::command("sudo", workspace.root());
            command.args(["--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
            command
        };
        process::run(
            command
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt_get(&["update", "-qq"])?;
    apt_get(
        &[
            &["install", "-y", "-qq", "--no-install-recommends"],
            missing.as_slice(),
        ]
        .concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_asked_of_apt() {
        let shell = Package {
            name: "dash",
            found_by: Probe::Program("sh"),
        };
        let root = Package {
            name: "base-files",
            found_by: Probe::File("/"),
        };
        assert!(ensure(&Workspace::find(), &[shell, root], false).is_ok());
    }

    #[test]
    fn what_is_missing_is_named_all_at_once() {
        let one = Package {
            name: "first-thing",
            found_by: Probe::Program("no-such-program-anywhere"),
        };
        let two = Package {
            name: "second-thing",
            found_by: Probe::File("/no/such/file"),
        };
        let error = ensure(&Workspace::find(), &[one, two], false)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("first-thing second-thing is missing: "),
            "{error}"
        );
        assert!(
            error.ends_with("sudo apt-get install first-thing second-thing"),
            "{error}"
        );
    }
}
