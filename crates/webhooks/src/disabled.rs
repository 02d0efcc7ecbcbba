//! Endpoints that answered 410. Nothing is sent to them until a client retries a delivery. Where
//! deliveries are kept beyond the process, so are these, for as long as the dead letter of the 410.

use std::collections::{HashSet, VecDeque};

use tokenwire_core::model::id::Owner;
use url::Url;

/// Maximum number of endpoints. The oldest is removed first, and has to answer 410 again.
const MAX: usize = 1000;

/// Disabled endpoints of each owner. An owner's deliveries do not disable another's.
#[derive(Debug, Default)]
pub(crate) struct Disabled {
    known: HashSet<(Owner, String)>,
    order: VecDeque<(Owner, String)>,
}

// === impl Disabled ===

impl Disabled {
    /// Whether the endpoint answered 410 to a delivery of this owner.
    pub(crate) fn contains(&self, owner: &Owner, url: &Url) -> bool {
        !self.known.is_empty()
            && self
                .known
                .contains(&(owner.clone(), url.as_str().to_owned()))
    }

    /// Disables an endpoint for one owner.
    pub(crate) fn add(&mut self, owner: &Owner, url: &Url) {
        let entry = (owner.clone(), url.as_str().to_owned());
        if !self.known.insert(entry.clone()) {
            return;
        }
        self.order.push_back(entry);
        if self.order.len() > MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Enables an endpoint again.
    pub(crate) fn remove(&mut self, owner: &Owner, url: &Url) {
        let entry = (owner.clone(), url.as_str().to_owned());
        if self.known.remove(&entry) {
            self.order.retain(|known| *known != entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(number: usize) -> Url {
        Url::parse(&format!("https://example.com/{number}")).unwrap()
    }

    #[test]
    fn oldest_endpoint_is_removed_beyond_the_maximum() {
        let (mut disabled, owner) = (Disabled::default(), Owner::Anonymous);
        for number in 0..=MAX {
            disabled.add(&owner, &url(number));
            disabled.add(&owner, &url(number));
        }
        assert!(
            !disabled.contains(&owner, &url(0))
                && disabled.contains(&owner, &url(1))
                && disabled.contains(&owner, &url(MAX))
        );
        assert_eq!((disabled.known.len(), disabled.order.len()), (MAX, MAX));
        assert!(
            !disabled.contains(&Owner::Named("b".into()), &url(1)),
            "another owner's endpoint was disabled"
        );
        disabled.remove(&owner, &url(1));
        assert!(!disabled.contains(&owner, &url(1)) && disabled.order.len() == MAX - 1);
    }
}
