//! Where JSON is written: into one buffer, or into pieces that share the large texts.

use super::text::Text;

/// Takes JSON as it is written.
pub(crate) trait Output {
    /// Appends bytes.
    fn extend_from_slice(&mut self, bytes: &[u8]);

    /// Appends one byte.
    fn push(&mut self, byte: u8);

    /// Appends a text.
    fn text(&mut self, text: &Text);

    /// Appends bytes that a copy of `owner` shares.
    fn share<T: AsRef<[u8]> + Clone + Send + 'static>(&mut self, owner: &T);
}

impl Output for Vec<u8> {
    #[inline]
    fn extend_from_slice(&mut self, bytes: &[u8]) {
        Self::extend_from_slice(self, bytes);
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        Self::push(self, byte);
    }

    fn text(&mut self, text: &Text) {
        text.write(self);
    }

    fn share<T: AsRef<[u8]> + Clone + Send + 'static>(&mut self, owner: &T) {
        Self::extend_from_slice(self, owner.as_ref());
    }
}
