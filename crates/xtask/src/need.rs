//! What a step needs before it can run.

use crate::debian::{Package, Probe};
use crate::error::Error;
use crate::workspace::Workspace;
use crate::{debian, examples, micro, node, process, python};

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
/// Chromium brings no font of its own, and pictures of empty boxes tell nobody anything.
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
pub(crate) const PYTHON: Package = Package {
    name: "python3",
    found_by: Probe::Program("python3"),
};
pub(crate) const VALGRIND: Package = Package {
    name: "valgrind",
    found_by: Probe::Program("valgrind"),
};
pub(crate) const VENV: Package = Package {
    name: "python3-venv",
    found_by: Probe::PythonModule("ensurepip"),
};

/// One thing that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A part of the Rust toolchain that rustup's minimal profile leaves out: its name for rustup,
    /// and the cargo command it brings.
    Component(&'static str, &'static str),
    Debian(Package),
    /// The program that runs benchmarks under valgrind.
    MicroRunner,
    /// The model gateways that the benchmarks compare with.
    ModelGateways,
    /// The pinned Python packages.
    PythonClients,
    /// Node and the pinned npm packages.
    NodeClients,
    /// What the examples pin, each for itself.
    Examples,
    /// Node and the pinned npm packages that drive a browser.
    BrowserPackages,
}

/// Brings all of it, Debian's packages first and together.
///
/// # Errors
/// Something is missing and must not or cannot be installed.
pub(crate) fn ensure(
    workspace: &Workspace,
    needs: &[Need],
    may_install: bool,
) -> Result<(), Error> {
    let mut packages = Vec::new();
    for need in needs {
        if let Need::Debian(package) = need
            && !packages.contains(package)
        {
            packages.push(*package);
        }
    }
    debian::ensure(workspace, &packages, may_install)?;
    for need in needs {
        match need {
            Need::Component(component, command) => {
                component_is_there(workspace, component, command, may_install)?
            }
            Need::Debian(_) => {}
            Need::MicroRunner => micro::runner(workspace, may_install).map(drop)?,
            Need::ModelGateways => python::model_gateways(workspace, may_install).map(drop)?,
            Need::PythonClients => python::clients(workspace, may_install).map(drop)?,
            Need::NodeClients => node::clients(workspace, may_install)?,
            Need::Examples => examples::packages(workspace, may_install).map(drop)?,
            Need::BrowserPackages => node::browser_packages(workspace, may_install)?,
        }
    }
    Ok(())
}

fn component_is_there(
    workspace: &Workspace,
    component: &str,
    command: &str,
    may_install: bool,
) -> Result<(), Error> {
    if process::succeeds(process::cargo(workspace.root()).args([command, "--version"])) {
        return Ok(());
    }
    if may_install && process::which("rustup").is_some() {
        return process::run(process::command("rustup", workspace.root()).args([
            "component",
            "add",
            component,
        ]));
    }
    Err(Error::Missing {
        what: format!("cargo {command}"),
        remedy: format!("rustup component add {component}"),
    })
}
