//! Debian packages: which are missing, and their installation.

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// A Debian package, and the probe that tells whether it is needed. A program from another source
/// satisfies the probe as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) found_by: Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A program on the PATH or in a system folder.
    Program(&'static str),
    /// A module that `python3` can import.
    PythonModule(&'static str),
    /// A file.
    File(&'static str),
}

pub(crate) const BUILDAH: Package = Package {
    name: "buildah",
    found_by: Probe::Program("buildah"),
};
pub(crate) const CADDY: Package = Package {
    name: "caddy",
    found_by: Probe::Program("caddy"),
};
pub(crate) const CHROMIUM: Package = Package {
    name: "chromium",
    found_by: Probe::Program("chromium"),
};
pub(crate) const CURL: Package = Package {
    name: "curl",
    found_by: Probe::Program("curl"),
};
pub(crate) const DEBOOTSTRAP: Package = Package {
    name: "debootstrap",
    found_by: Probe::Program("debootstrap"),
};
/// Brings the library that shows a process another time.
pub(crate) const FAKETIME: Package = Package {
    name: "faketime",
    found_by: Probe::Program("faketime"),
};
/// Chromium comes without fonts; without one, screenshots show empty boxes.
pub(crate) const FONTS: Package = Package {
    name: "fonts-dejavu-core",
    found_by: Probe::File("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
};
pub(crate) const HAPROXY: Package = Package {
    name: "haproxy",
    found_by: Probe::Program("haproxy"),
};
pub(crate) const NCHAN: Package = Package {
    name: "libnginx-mod-nchan",
    found_by: Probe::File("/usr/lib/nginx/modules/ngx_nchan_module.so"),
};
pub(crate) const NGINX: Package = Package {
    name: "nginx",
    found_by: Probe::Program("nginx"),
};
pub(crate) const OPENSSL: Package = Package {
    name: "openssl",
    found_by: Probe::Program("openssl"),
};
/// Brings promtool.
pub(crate) const PROMETHEUS: Package = Package {
    name: "prometheus",
    found_by: Probe::Program("promtool"),
};
pub(crate) const PYTHON: Package = Package {
    name: "python3",
    found_by: Probe::Program("python3"),
};
pub(crate) const REDIS: Package = Package {
    name: "redis-server",
    found_by: Probe::Program("redis-server"),
};
pub(crate) const REDIS_SENTINEL: Package = Package {
    name: "redis-sentinel",
    found_by: Probe::Program("redis-sentinel"),
};
pub(crate) const SYSTEMD: Package = Package {
    name: "systemd",
    found_by: Probe::Program("systemd-socket-activate"),
};
pub(crate) const VALGRIND: Package = Package {
    name: "valgrind",
    found_by: Probe::Program("valgrind"),
};
pub(crate) const VENV: Package = Package {
    name: "python3-venv",
    found_by: Probe::PythonModule("ensurepip"),
};

// === impl Package ===

impl Package {
    fn is_installed(&self, workspace: &Workspace) -> bool {
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

/// Installs the missing packages with one call of apt-get.
///
/// # Errors
/// A package is missing and may not or cannot be installed. The error names all that are missing.
pub(crate) fn ensure(
    workspace: &Workspace,
    packages: &[Package],
    may_install: bool,
) -> Result<(), Error> {
    let mut missing: Vec<&str> = packages
        .iter()
        .filter(|package| !package.is_installed(workspace))
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
            remedy: "apt-get is not available; install the same programs another way".to_owned(),
        });
    }
    let is_root = process::output(process::command("id", workspace.root()).arg("-u"))
        .is_some_and(|id| id.trim() == "0");
    if !is_root && process::which("sudo").is_none() {
        return Err(Error::Missing {
            what: list.clone(),
            remedy: format!("sudo is not available; as root: apt-get install {list}"),
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
    fn installed_packages_need_no_apt() {
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
    fn error_names_all_missing_packages() {
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
