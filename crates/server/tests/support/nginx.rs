//! nginx with a file of `deploy/`, in front of gateways.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokenwire_testkit::free_port;

use super::eventually;

/// An nginx that runs until it is dropped. Needs the program `nginx`, as in Debian's package of that
/// name.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts it with this site, in which each first text is replaced by the second one. The site
    /// listens on port 8080 and has its logs in `/var/log/nginx`.
    pub(crate) async fn start(site: &str, places: &[(&str, String)]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().display();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let own = [
            ("listen 8080;", format!("listen {address};")),
            ("/var/log/nginx", path.to_string()),
        ];
        let mut site = site.to_owned();
        for (documented, here) in own.iter().chain(places) {
            assert!(site.contains(documented), "the site has no {documented}");
            site = site.replace(documented, here);
        }
        std::fs::write(folder.path().join("site.conf"), site).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {path}/{kind};"));
        // One process, which ends when it is killed.
        let around = format!(
            "daemon off; master_process off; pid {path}/nginx.pid; error_log {path}/error.log; \
             events {{ worker_connections 4096; }} \
             http {{ access_log off; {} include {path}/site.conf; }}",
            temporary.join(" ")
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, around).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).args(["-e", "stderr"]);
        let child = command.arg("-c").arg(file).stderr(Stdio::null()).spawn();
        let child = child.expect("nginx can be started: is the package nginx installed?");
        let this = Self {
            child,
            address,
            folder,
        };
        eventually("nginx listens", async || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        this
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
