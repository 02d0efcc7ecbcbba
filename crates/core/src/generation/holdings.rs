//! What a generation holds beside its log, as the account counts it.

use crate::model::account::{Account, AccountKind, Charge, Turn};

/// The charges of one generation. They are released with it.
#[derive(Debug)]
pub struct Holdings {
    /// The items that later turns build on.
    inputs: Charge,
    /// The response object and the rest.
    object: Charge,
    /// What a running generation is expected to grow by.
    reserved: Charge,
    /// What it reserved at its start.
    expected: usize,
    outgrown: bool,
    /// The turn to exceed the limit, which ends with what the generation holds.
    turn: Option<Box<Turn>>,
}

impl Holdings {
    /// Takes over what was reserved for the start: `inputs` for the request's items, and `reserved`
    /// for the growth.
    #[must_use]
    pub fn new(inputs: Charge, reserved: Charge) -> Self {
        let object = inputs.account().charge(AccountKind::Objects, 0);
        Self {
            inputs,
            object,
            expected: reserved.bytes(),
            reserved,
            outgrown: false,
            turn: None,
        }
    }

    /// Charges without a limit, for a generation that no account counts.
    #[must_use]
    pub fn uncounted() -> Self {
        let account = Account::default();
        Self::new(
            account.charge(AccountKind::Inputs, 0),
            account.charge(AccountKind::Reserved, 0),
        )
    }

    pub(super) fn account(&self) -> &Account {
        self.inputs.account()
    }

    pub(super) fn set_inputs(&mut self, bytes: usize) {
        self.inputs.resize(bytes);
    }

    pub(super) fn set_object(&mut self, bytes: usize) {
        self.object.resize(bytes);
    }

    /// Returns the bytes that are counted beside the log.
    pub(super) fn bytes(&self) -> usize {
        self.inputs.bytes() + self.object.bytes()
    }

    pub(super) fn hold_turn(&mut self, turn: Turn) {
        self.turn = Some(Box::new(turn));
    }

    /// Counts the sizes of a running generation. One that outgrows what it reserved is expected to
    /// double.
    pub(super) fn grow(&mut self, object: usize, log: usize) {
        self.object.resize(object);
        let size = object + log;
        if size <= self.expected {
            return self.reserved.resize(self.expected - size);
        }
        if !self.outgrown {
            self.outgrown = true;
            self.account().observe(size);
        }
        self.reserved.resize(size.next_power_of_two() - size);
    }

    /// Counts the sizes of a generation that has ended.
    pub(super) fn settle(&mut self, object: usize, log: usize) {
        self.object.resize(object);
        self.reserved.resize(0);
        self.account().observe(object + log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservation_shrinks_with_growth_and_ends_with_the_generation() {
        let account = Account::new(1 << 30);
        let mut holdings = Holdings::new(
            account.charge(AccountKind::Inputs, 0),
            account.charge(AccountKind::Reserved, 64 * 1024),
        );
        holdings.set_inputs(1000);
        holdings.grow(4 * 1024, 20 * 1024);
        assert_eq!(account.held(AccountKind::Reserved), 40 * 1024);
        assert_eq!(account.held(AccountKind::Objects), 4 * 1024);
        holdings.grow(100 * 1024, 60 * 1024);
        assert_eq!(account.held(AccountKind::Reserved), 96 * 1024);
        assert!(account.typical() > 64 * 1024, "a larger answer was noted");
        holdings.settle(90 * 1024, 60 * 1024);
        assert_eq!(account.committed(), 1000 + 90 * 1024);
        drop(holdings);
        assert_eq!(account.committed(), 0);
    }
}
