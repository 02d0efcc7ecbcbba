//! The endpoints that answered 410: nothing is sent to them until the gateway restarts or somebody
//! retries a delivery by hand.

use std::collections::{HashSet, VecDeque};

use tokenwire_core::model::id::Owner;
use url::Url;

/// How many are remembered. The oldest is forgotten first, and has to answer 410 once more.
const MOST: usize = 1000;

/// An owner's deliveries are stopped by the answers that this owner's deliveries got.
#[derive(Debug, Default)]
pub(crate) struct Disabled {
    known: HashSet<(Owner, String)>,
    order: VecDeque<(Owner, String)>,
}

// === impl Disabled ===

impl Disabled {
    pub(crate) fn holds(&self, owner: &Owner, url: &Url) -> bool {
        !self.known.is_empty()
            && self
                .known
                .contains(&(owner.clone(), url.as_str().to_owned()))
    }

    pub(crate) fn add(&mut self, owner: &Owner, url: &Url) {
        let entry = (owner.clone(), url.as_str().to_owned());
        if !self.known.insert(entry.clone()) {
            return;
        }
        self.order.push_back(entry);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

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
    fn remembers_so_many_and_forgets_the_oldest() {
        let (mut disabled, owner) = (Disabled::default(), Owner::Anonymous);
        for number in 0..=MOST {
            disabled.add(&owner, &url(number));
            disabled.add(&owner, &url(number));
        }
        assert!(
            !disabled.holds(&owner, &url(0))
                && disabled.holds(&owner, &url(1))
                && disabled.holds(&owner, &url(MOST))
        );
        assert_eq!((disabled.known.len(), disabled.order.len()), (MOST, MOST));
        assert!(
            !disabled.holds(&Owner::Named("b".into()), &url(1)),
            "one owner's endpoint is not another's"
        );
        disabled.remove(&owner, &url(1));
        assert!(!disabled.holds(&owner, &url(1)) && disabled.order.len() == MOST - 1);
    }
}
