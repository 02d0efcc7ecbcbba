//! `--measure`: what the simulator can give when nothing holds it back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokenwire_simulator::{Options, Simulator};

const STREAMS: usize = 32;
const TOKENS: u64 = 250_000;
/// Reads at a time, which is what a client drains that is not busy with what it reads.
const READ: usize = 256 * 1024;
/// How long a socket may be silent before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Drains 32 streams from one thread with plain sockets and prints the tokens per second in all.
#[allow(clippy::print_stdout, reason = "the figure is what the command is for")]
pub(crate) fn run() -> Result<(), String> {
    let failed =
        |what: &'static str| move |error: std::io::Error| format!("failed to {what}: {error}");
    let simulator = Simulator::start(Options::default()).map_err(failed("start the simulator"))?;
    let mut sockets = Vec::with_capacity(STREAMS);
    let body = r#"{"model":"simulator","stream":true,"messages":[{"role":"user","content":"go"}]}"#;
    for _ in 0..STREAMS {
        let socket = TcpStream::connect(simulator.addr()).map_err(failed("connect"))?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .map_err(failed("set a timeout"))?;
        sockets.push(socket);
    }
    let start = Instant::now();
    for socket in &mut sockets {
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\nx-simulator: tokens={TOKENS}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket
            .write_all(request.as_bytes())
            .map_err(failed("send the request"))?;
    }
    let mut buffer = vec![0; READ];
    let mut bytes = 0_u64;
    while !sockets.is_empty() {
        let mut index = 0;
        while index < sockets.len() {
            match sockets[index]
                .read(&mut buffer)
                .map_err(failed("read a stream"))?
            {
                0 => drop(sockets.swap_remove(index)),
                read => {
                    bytes += read as u64;
                    index += 1;
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = simulator.stats();
    let expected = TOKENS * STREAMS as u64;
    if stats.tokens_sent != expected {
        return Err(format!(
            "{} tokens were sent, expected {expected}",
            stats.tokens_sent
        ));
    }
    println!(
        "{STREAMS} streams, {TOKENS} tokens each, {:.1} MB in {seconds:.2} s",
        bytes as f64 / 1e6
    );
    println!("{:.0} tokens/s in all", expected as f64 / seconds);
    Ok(())
}
