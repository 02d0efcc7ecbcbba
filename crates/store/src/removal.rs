//! What the index forgets when a file is removed.

use crate::files::{FileKind, Place, StoreFile};
use crate::listing::{LISTED, Listed, contents};
use crate::shared::Shared;

impl Shared {
    /// Forgets what lies in a file that is removed. Takes the lock for some logs at a time.
    pub(crate) fn forget_file(&self, file: &StoreFile) {
        let listed = if file.kind.is_kept() {
            contents(file)
        } else {
            Vec::new()
        };
        for listed in listed.chunks(LISTED) {
            let mut index = self.index.lock();
            for Listed { id, keyed, offset } in listed {
                let key = index.key(id);
                let place = Place {
                    file: file.id,
                    offset: *offset,
                };
                index.forget(key, file.kind == FileKind::Logs, place, *keyed);
            }
        }
        self.index.lock().files.remove(&file.id);
    }
}
