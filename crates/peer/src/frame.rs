//! Frames: a length of four bytes, little endian, a kind of one byte, and the body.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes by which memory grows while a body arrives.
const STEP: usize = 64 * 1024;

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed or has ended.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The frame is longer than its place in the conversation allows.
    #[error("a frame of {length} bytes, where {most} are allowed")]
    TooLong {
        /// Its length.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// A frame of another kind, or with a body that cannot be read.
    #[error("a frame that cannot be read")]
    Malformed,
    /// The other side did not prove that it knows the secret, or speaks another version.
    #[error("the other side was refused: {0}")]
    Refused(&'static str),
    /// Another process has taken the place of the one that was asked.
    #[error("another process answers at its address")]
    Other,
    /// Nothing arrived in time, or nothing could be sent.
    #[error("no answer in time")]
    Timeout,
}

/// Reads a frame into `body`, whose content is replaced. Returns the kind.
///
/// Not cancel safe: a dropped call loses what it has read.
///
/// # Errors
/// [`FrameError::Io`] and [`FrameError::TooLong`].
pub async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    most: usize,
    body: &mut Vec<u8>,
) -> Result<u8, FrameError> {
    let mut head = [0; 5];
    reader.read_exact(&mut head).await?;
    let [a, b, c, d, kind] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > most {
        return Err(FrameError::TooLong { length, most });
    }
    body.clear();
    while body.len() < length {
        let from = body.len();
        let to = length.min(from + STEP);
        body.resize(to, 0);
        let part = body.get_mut(from..).unwrap_or_default();
        reader.read_exact(part).await?;
    }
    Ok(kind)
}

/// Writes a frame.
///
/// # Errors
/// [`FrameError::Io`]; [`FrameError::TooLong`] for a body of 4 GiB and more.
pub async fn write_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    kind: u8,
    body: &[u8],
) -> Result<(), FrameError> {
    let too_long = |_| FrameError::TooLong {
        length: body.len(),
        most: u32::MAX as usize,
    };
    let length = u32::try_from(body.len()).map_err(too_long)?;
    let [a, b, c, d] = length.to_le_bytes();
    let head = [a, b, c, d, kind];
    if body.len() <= STEP {
        // One write for what is paced.
        let mut frame = Vec::with_capacity(head.len() + body.len());
        frame.extend_from_slice(&head);
        frame.extend_from_slice(body);
        writer.write_all(&frame).await?;
    } else {
        writer.write_all(&head).await?;
        writer.write_all(body).await?;
    }
    writer.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.build().unwrap().block_on(future)
    }

    #[test]
    fn frame_longer_than_its_bound_takes_no_memory() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0x7f, 1, 0];
        let mut body = Vec::new();
        let read = run(read_frame(&mut bytes, 1024, &mut body));
        assert!(matches!(read, Err(FrameError::TooLong { most: 1024, .. })));
        assert_eq!(body.capacity(), 0);
    }

    #[test]
    fn announced_length_takes_memory_as_bytes_arrive() {
        let mut bytes: &[u8] = &[0, 0, 0, 4, 1, 0];
        let mut body = Vec::new();
        let read = run(read_frame(&mut bytes, usize::MAX, &mut body));
        assert!(matches!(read, Err(FrameError::Io(_))));
        assert!(body.capacity() <= STEP);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn frames_are_read_as_they_were_written(
            kind: u8,
            body in proptest::collection::vec(any::<u8>(), 0..200_000),
        ) {
            let mut bytes = Vec::new();
            run(write_frame(&mut bytes, kind, &body)).unwrap();
            let mut read = Vec::new();
            let found = run(read_frame(&mut &bytes[..], body.len(), &mut read)).unwrap();
            prop_assert_eq!(found, kind);
            prop_assert!(read == body);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut body = Vec::new();
            let mut rest = &bytes[..];
            while run(read_frame(&mut rest, 128, &mut body)).is_ok() {}
        }
    }
}
