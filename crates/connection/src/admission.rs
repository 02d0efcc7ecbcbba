//! Which accepted sockets are served.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use futures::future::LocalBoxFuture;

/// Decides what happens to an accepted socket.
pub type Admit = Arc<dyn Fn(&TcpStream) -> Admission + Send + Sync>;

/// What happens to an accepted socket. A guard is dropped when the connection closes.
pub enum Admission {
    /// The connection is served.
    Serve(Box<dyn Any>),
    /// The connection is served until `end` is ready, and its requests find [`Reserved`] in their
    /// connection data.
    Reserve {
        /// Dropped when the connection closes.
        guard: Box<dyn Any>,
        /// The connection closes once this is ready.
        end: LocalBoxFuture<'static, ()>,
    },
    /// The bytes are written, without a request, and the connection closes.
    Refuse(Bytes),
}

/// Connection data of a request on a [reserved](Admission::Reserve) connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved;

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serve(_) => "Serve",
            Self::Reserve { .. } => "Reserve",
            Self::Refuse(_) => "Refuse",
        })
    }
}
