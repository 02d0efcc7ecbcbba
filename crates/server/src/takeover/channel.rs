//! Lines of JSON and descriptors over a Unix socket, with deadlines.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, UCred, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// The most descriptors of one message.
const MAX_DESCRIPTORS: usize = 16;

/// One conversation.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// Returns the process at the other end. It may have exited since it opened the socket.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if it runs as another user.
    pub(super) fn peer(&self) -> io::Result<u32> {
        let UCred { pid, uid, .. } = rustix::net::sockopt::socket_peercred(&self.stream)?;
        if uid != rustix::process::geteuid() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("process {} runs as another user", pid.as_raw_nonzero()),
            ));
        }
        Ok(pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Sends a message, and descriptors with it.
    pub(super) fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
        within: Duration,
    ) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.set_write_timeout(Some(within))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many listening sockets"));
        }
        let flags = SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.stream, &[IoSlice::new(&line)], &mut control, flags)?;
        self.stream.write_all(&line[sent..])
    }

    /// Waits for a message. Its descriptors are kept for
    /// [`take_descriptors`](Self::take_descriptors).
    pub(super) fn receive<T: DeserializeOwned>(&mut self, within: Duration) -> io::Result<T> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let message = serde_json::from_slice(&self.received[..end])?;
                self.received.drain(..=end);
                return Ok(message);
            }
            if self.received.len() >= MAX_MESSAGE {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "a message is too long",
                ));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.receive_some()?;
        }
    }

    /// Returns the descriptors that came with the messages so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    fn receive_some(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = match recvmsg(&self.stream, &mut into, &mut control, flags) {
            Ok(received) => received.bytes,
            // The caller looks at the time.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.extend_from_slice(&bytes[..length]);
        Ok(())
    }
}
