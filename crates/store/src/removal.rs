//! What the index forgets when a file is removed.

use crate::listing::{Listed, each_part};
use crate::shared::Shared;
use crate::store_file::{FileKind, Place, StoreFile};

impl Shared {
    /// Forgets what lies in a file that is removed. Takes the lock for some logs at a time.
    pub(crate) fn forget_file(&self, file: &StoreFile) {
        if file.kind.is_kept() {
            each_part(file, |part| {
                let mut index = self.index.lock();
                for Listed { id, keyed, offset } in part {
                    let key = index.key(id);
                    let place = Place {
                        file: file.id,
                        offset: *offset,
                    };
                    index.forget(key, file.kind == FileKind::Logs, place, *keyed);
                }
            });
        }
        self.index.lock().files.remove(&file.id);
    }
}
