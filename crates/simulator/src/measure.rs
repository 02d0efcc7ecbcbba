//! `--measure`: the maximum throughput of the simulator.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokenwire_simulator::{Options, Simulator};

const STREAMS: usize = 32;
const TOKENS: u64 = 250_000;
/// Bytes per read of a client that does not process what it reads.
const READ: usize = 256 * 1024;
/// Time without data after which the measurement fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads 32 streams on one thread and prints the total tokens per second.
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
