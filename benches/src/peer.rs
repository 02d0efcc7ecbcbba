//! The configurations of the peers from Debian's packages: `nginx`, `libnginx-mod-nchan`,
//! `haproxy`.

use std::net::SocketAddr;

const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// Temporary folders: nginx's own under /var/lib need root.
const TEMP_PATHS: &str = "client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;";

/// Several workers get a listening socket each: nginx's first worker would take most connections
/// otherwise.
fn reuse(workers: usize) -> &'static str {
    if workers > 1 { " reuseport" } else { "" }
}

/// Returns the configuration of a reverse proxy that relays each read at once and keeps its
/// upstream connections. Requests per connection are not limited, so closed loops measure requests
/// only.
pub(crate) fn nginx(listen: SocketAddr, upstream: SocketAddr, workers: usize) -> String {
    let reuse = reuse(workers);
    format!(
        "worker_processes {workers};
daemon off;
error_log stderr;
pid nginx.pid;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  {TEMP_PATHS}
  keepalive_requests 100000000;
  upstream simulator {{ server {upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen {listen} backlog=4096{reuse};
    location / {{
      proxy_pass http://simulator;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
      proxy_read_timeout 300s;
      tcp_nodelay on;
    }}
  }}
}}
"
    )
}

/// Returns a configuration with one channel per path: `POST /pub/x` publishes, `GET /sub/x` reads
/// over SSE or WebSocket from the oldest message.
pub(crate) fn nchan(listen: SocketAddr, workers: usize) -> String {
    let reuse = reuse(workers);
    format!(
        "load_module {NCHAN_MODULE};
worker_processes {workers};
daemon off;
error_log stderr;
pid nchan.pid;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  {TEMP_PATHS}
  keepalive_requests 100000000;
  nchan_message_buffer_length 20000;
  nchan_message_timeout 5m;
  server {{
    listen {listen} backlog=4096{reuse};
    tcp_nodelay on;
    location ~ /pub/(\\w+)$ {{ nchan_publisher; nchan_channel_id $1; }}
    location ~ /sub/(\\w+)$ {{
      nchan_subscriber eventsource websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message oldest;
    }}
  }}
}}
"
    )
}

/// Returns the configuration of a TCP proxy that parses nothing: the lower bound for any relay.
pub(crate) fn haproxy(listen: SocketAddr, upstream: SocketAddr, workers: usize) -> String {
    format!(
        "global
  maxconn 9000
  nbthread {workers}
defaults
  mode tcp
  timeout connect 5s
  timeout client 300s
  timeout server 300s
listen pipe
  bind {listen} backlog 4096
  server simulator {upstream}
"
    )
}
