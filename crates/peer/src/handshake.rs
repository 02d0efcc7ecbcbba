//! Challenge and response: each side proves that it knows the secret.

use std::fmt;
use std::io;
use std::path::Path;

use rand::RngCore as _;
use ring::hmac;
use tokenwire_core::log::Formats;
use tokenwire_core::model::id::Tag;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::frame::{FrameError, read_frame, write_frame};

/// The version that is spoken.
pub const VERSION: u8 = 1;

const CHALLENGE: u8 = 1;
const PROOF: u8 = 2;
/// In place of a proof: the other side did not prove the secret.
const REFUSED: u8 = 3;
const NONCE: usize = 32;
const PROVEN: usize = 32;
/// The longest frame before the secret is proven.
const MOST: usize = 256;

/// What both sides of a connection know.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

impl Secret {
    /// Uses these bytes, which should be 32 random ones.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Makes a random secret and writes it to a new file that only its owner can read.
    ///
    /// # Errors
    /// Those of the file system; also if there is such a file.
    pub fn create(path: &Path) -> io::Result<Self> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;

        let mut bytes = [0; PROVEN];
        rand::rng().fill_bytes(&mut bytes);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&bytes)?;
        Ok(Self::new(&bytes))
    }

    /// Reads the secret that another process has made.
    ///
    /// # Errors
    /// Those of the file system; also if the file is not complete.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        if bytes.len() == PROVEN {
            Ok(Self::new(&bytes))
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn prove(&self, role: u8, first: &[u8], second: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[VERSION, role]);
        context.update(first);
        context.update(second);
        context.sign()
    }

    fn check(&self, role: u8, first: &[u8], second: &[u8], proof: &[u8]) -> Result<(), FrameError> {
        let mut message = vec![VERSION, role];
        message.extend_from_slice(first);
        message.extend_from_slice(second);
        hmac::verify(&self.0, &message, proof)
            .map_err(|_| FrameError::Refused("it does not know the secret"))
    }
}

/// The two sides prove different things, so that neither can send back what it was sent.
const CONNECTING: u8 = b'c';
const ACCEPTING: u8 = b'a';

/// Where a nonce announces formats, and how that begins. The bytes before are random.
const ANNOUNCED: usize = NONCE - 8;
const ANNOUNCES: [u8; 6] = *b"twform";

/// Makes a nonce that announces these formats. A program that announces none has a random nonce of
/// the same length, so each understands the other.
fn nonce(formats: Formats) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    rand::rng().fill_bytes(&mut nonce);
    let (_, announced) = nonce.split_at_mut(ANNOUNCED);
    announced[..6].copy_from_slice(&ANNOUNCES);
    announced[6..].copy_from_slice(&[formats.read, formats.write]);
    nonce
}

/// Returns the formats that a nonce announces.
fn announced(nonce: &[u8]) -> Formats {
    match nonce.get(ANNOUNCED..NONCE) {
        Some([mark @ .., read, write]) if *mark == ANNOUNCES => Formats {
            read: *read,
            write: *write,
        },
        _ => Formats::FIRST,
    }
}

/// Splits a version off a frame's body.
fn versioned(body: &[u8]) -> Result<&[u8], FrameError> {
    match body.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some(_) => Err(FrameError::Refused("it speaks another version")),
        None => Err(FrameError::Malformed),
    }
}

/// Proves the secret to a connection that was accepted, and has the other side prove it. With a tag
/// the other side learns which process answers. Returns the formats that the other side announces.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    tag: Option<&Tag>,
    formats: Formats,
) -> Result<Formats, FrameError> {
    let mut ours = nonce(formats).to_vec();
    ours.extend_from_slice(tag.map_or(&[][..], |tag| tag.as_str().as_bytes()));
    let mut body = vec![VERSION];
    body.extend_from_slice(&ours);
    write_frame(stream, CHALLENGE, &body).await?;
    if read_frame(stream, MOST, &mut body).await? != PROOF {
        return Err(FrameError::Malformed);
    }
    let proven = versioned(&body).and_then(|rest| {
        let (theirs, proof) = rest.split_at_checked(NONCE).ok_or(FrameError::Malformed)?;
        secret.check(CONNECTING, &ours, theirs, proof)?;
        Ok(theirs)
    });
    match proven {
        Ok(theirs) => {
            let proof = secret.prove(ACCEPTING, theirs, &ours);
            write_frame(stream, PROOF, proof.as_ref()).await?;
            Ok(announced(theirs))
        }
        Err(error) => {
            if matches!(error, FrameError::Refused(_)) {
                // So that the other side can say why.
                write_frame(stream, REFUSED, &[]).await?;
            }
            Err(error)
        }
    }
}

/// Proves the secret to a connection that was made, and has the other side prove it. Returns the tag
/// of the process that answers, if it names one. One whose formats are all newer is refused.
pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    secret: &Secret,
    formats: Formats,
) -> Result<Option<Tag>, FrameError> {
    let mut body = Vec::new();
    if read_frame(stream, MOST, &mut body).await? != CHALLENGE {
        return Err(FrameError::Malformed);
    }
    let theirs = versioned(&body)?.to_vec();
    let tag = match theirs.get(NONCE..) {
        None => return Err(FrameError::Malformed),
        Some([]) => None,
        Some(tag) => {
            let tag = std::str::from_utf8(tag).map_err(|_| FrameError::Malformed)?;
            Some(tag.parse().map_err(|_| FrameError::Malformed)?)
        }
    };
    let ours = nonce(formats);
    let mut answer = vec![VERSION];
    answer.extend_from_slice(&ours);
    answer.extend_from_slice(secret.prove(CONNECTING, &theirs, &ours).as_ref());
    write_frame(stream, PROOF, &answer).await?;
    match read_frame(stream, MOST, &mut body).await? {
        PROOF => secret.check(ACCEPTING, &ours, &theirs, &body)?,
        REFUSED => return Err(FrameError::Refused("it has another secret or version")),
        _ => return Err(FrameError::Malformed),
    }
    if announced(&theirs).write > formats.read {
        return Err(FrameError::Refused("it writes newer logs only"));
    }
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shaken = (Result<Formats, FrameError>, Result<Option<Tag>, FrameError>);

    const FORMATS: Formats = Formats::CURRENT;

    async fn shake(ours: &[u8], theirs: &[u8], tag: Option<Tag>) -> Shaken {
        let (mut a, mut b) = tokio::io::duplex(1024);
        let (ours, theirs) = (Secret::new(ours), Secret::new(theirs));
        let accepting = async move { accept(&mut a, &ours, tag.as_ref(), FORMATS).await };
        let connecting = async move { connect(&mut b, &theirs, FORMATS).await };
        tokio::join!(accepting, connecting)
    }

    #[tokio::test]
    async fn both_sides_accept_the_same_secret() {
        let shaken = shake(b"same", b"same", None).await;
        assert!(matches!(shaken, (Ok(FORMATS), Ok(None))));
        let tag = Tag::random();
        let (accepted, connected) = shake(b"same", b"same", Some(tag.clone())).await;
        assert!(accepted.is_ok());
        assert_eq!(connected.unwrap(), Some(tag));
    }

    #[tokio::test]
    async fn another_secret_is_refused_by_both_sides() {
        let (accepted, connected) = shake(b"one", b"other", None).await;
        assert!(matches!(accepted, Err(FrameError::Refused(_))));
        assert!(matches!(connected, Err(FrameError::Refused(_))));
    }

    #[tokio::test]
    async fn reflected_proof_is_refused() {
        let secret = Secret::new(b"secret");
        let nonce = [7; NONCE];
        let proof = secret.prove(CONNECTING, &nonce, &nonce);
        let refused = secret.check(ACCEPTING, &nonce, &nonce, proof.as_ref());
        assert!(matches!(refused, Err(FrameError::Refused(_))));
    }

    #[test]
    fn random_nonce_announces_the_first_formats() {
        assert_eq!(announced(&[7; NONCE]), Formats::FIRST);
        let formats = Formats { read: 3, write: 2 };
        let (one, other) = (nonce(formats), nonce(formats));
        assert_eq!(announced(&one), formats);
        assert_ne!(one, other);
        let with_tag = [&one[..], b"tag"].concat();
        assert_eq!(announced(&with_tag), formats);
    }

    #[tokio::test]
    async fn process_that_writes_newer_logs_only_is_refused() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        let newer = Formats { read: 9, write: 9 };
        let accepting = async move {
            let secret = Secret::new(b"same");
            accept(&mut a, &secret, None, newer).await
        };
        let connecting = async move {
            let secret = Secret::new(b"same");
            connect(&mut b, &secret, FORMATS).await
        };
        let (accepted, connected) = tokio::join!(accepting, connecting);
        assert_eq!(accepted.unwrap(), FORMATS);
        assert!(matches!(connected, Err(FrameError::Refused(_))));
    }

    #[tokio::test]
    async fn another_version_is_refused() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        let mut body = vec![VERSION + 1];
        body.extend_from_slice(&[0; NONCE]);
        write_frame(&mut a, CHALLENGE, &body).await.unwrap();
        let connected = connect(&mut b, &Secret::new(b"secret"), FORMATS).await;
        assert!(matches!(connected, Err(FrameError::Refused(_))));
    }
}
